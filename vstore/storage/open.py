"""From what a user types to a store."""

from __future__ import annotations

import os
from importlib.util import find_spec
from typing import Any
from urllib.parse import unquote, urlsplit

from vstore.errors import InvalidSetting, MissingDependency, nearest
from vstore.settings import Settings
from vstore.storage.base import ObjectStore
from vstore.storage.local import LocalStore
from vstore.storage.memory import MemoryStore

SCHEMES = ("file", "memory", "s3")
S3_OPTIONS = (
    "endpoint_url", "region", "access_key_id", "secret_access_key", "session_token", "addressing_style",
)  # fmt: skip
LOCAL_OPTIONS = ("create",)


def open_store(
    uri: str | os.PathLike[str], *, settings: Settings | None = None, **options: Any
) -> ObjectStore:
    """Return the store that `uri` names; nothing is read or written yet.

    Args:
        uri: a folder ("./data", "~/data", a Path, "file:///data"), "memory://" (a new one), "memory://name"
            (the same for the whole process) or "s3://bucket/prefix".
        settings: io_concurrency, coalescing, retries, clock and sleep are used.
        **options: for s3: endpoint_url, region, access_key_id, secret_access_key, session_token,
            addressing_style ("path", "virtual", "auto"); for a folder: create (False: it must exist).

    Raises:
        InvalidSetting: an unknown scheme or option, or one that cannot be.
        MissingDependency: boto3 is missing or too old.
        NotAStore: the folder is a file.
        BucketNotFound: create=False, and there is no folder.
    """
    settings = settings or Settings()
    text = os.fspath(uri)
    if not isinstance(text, str) or not text:
        raise InvalidSetting(
            f"the store's place is {uri!r}; it must be a folder, memory://, or s3://bucket/prefix"
        )
    scheme, separator, rest = text.partition("://")
    if not separator:
        _check_options(text, options, LOCAL_OPTIONS)
        return LocalStore(text, clock=settings.clock, **options)
    scheme = scheme.lower()
    if scheme == "file":
        _check_options(text, options, LOCAL_OPTIONS)
        return LocalStore(_file_path(text), clock=settings.clock, **options)
    if scheme == "memory":
        _check_options(text, options, ())
        return MemoryStore.named(rest) if rest else MemoryStore()
    if scheme == "s3":
        _check_options(text, options, S3_OPTIONS)
        return _open_s3(rest, settings, options)
    raise InvalidSetting(
        f"the place {text!r} has the scheme {scheme!r}; vstore has {', '.join(SCHEMES)}"
        f"{nearest(scheme, SCHEMES)}"
    )


def _open_s3(rest: str, settings: Settings, options: dict[str, Any]) -> ObjectStore:
    try:
        # botocore takes long to import: only who needs it pays.
        from vstore.storage.s3 import S3Store
        from vstore.storage.s3_client import S3Options

        if find_spec("boto3") is None:
            raise ImportError("there is no boto3")
    except ImportError as error:
        raise MissingDependency(f"s3:// needs boto3 ({error}); run: pip install 'boto3>=1.43.77'") from error
    bucket, _, prefix = rest.partition("/")
    return S3Store(bucket, prefix, options=S3Options(**options), settings=settings)


def _file_path(uri: str) -> str:
    parts = urlsplit(uri)
    if parts.netloc not in ("", "localhost") or not parts.path:
        raise InvalidSetting(f"the place {uri!r} names a host; write file:///folder, or the folder alone")
    return unquote(parts.path)


def _check_options(uri: str, options: dict[str, Any], known: tuple[str, ...]) -> None:
    for name in options:
        if name not in known:
            has = ", ".join(known) if known else "none"
            raise InvalidSetting(f"{uri!r} has no option {name!r}; it has {has}{nearest(name, known)}")
