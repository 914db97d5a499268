"""Reads of S3 by obstore, which is Rust: less processor time a request than Python's clients take.

`get_ranges` has at most ten requests in flight, so ranges go to it in tens, each ten from a thread of its
own; and it would merge near ranges by itself, which the store has done already (`coalesce=0`).
"""

from __future__ import annotations

import re
import threading
from collections.abc import Callable, Sequence
from datetime import timedelta
from functools import partial
from typing import Any

from vstore.errors import AccessDenied, CorruptData, MissingDependency, StorageError, StoreUnavailable
from vstore.settings import Settings
from vstore.storage.base import ByteRange
from vstore.storage.keys import past_end
from vstore.storage.s3_client import S3Options
from vstore.storage.s3_errors import CREDENTIALS_REMEDY
from vstore.storage.s3_reader import ignores_ranges

GROUP = 10
"""Ranges of one call: obstore asks for no more at once."""


class ObstoreReader:
    """Reads through obstore, one object and up to GROUP ranges a call.

    Args:
        bucket: the bucket's name.
        root: what stands before every key, "" or ending in "/".
        options: endpoint, region, credentials; without keys, boto3's chain is asked for them.
        settings: n_retries and the retry waits are used.
        where: the store's name in messages.
        missing: returns the error for a 404 (no object, or no bucket).

    Raises:
        MissingDependency: obstore is not installed.
    """

    def __init__(
        self,
        bucket: str,
        root: str,
        *,
        options: S3Options,
        settings: Settings,
        where: str,
        missing: Callable[[str], StorageError],
    ) -> None:
        try:
            import obstore
        except ImportError as error:
            raise MissingDependency(
                f"s3_reader is 'obstore', and obstore cannot be imported ({error}); "
                "run: pip install 'vstore[obstore]'"
            ) from error
        self._obstore: Any = obstore
        self._make = partial(_make_store, bucket, options, settings)
        self._made: Any = None
        self._lock = threading.Lock()
        self._root, self._where, self._missing = root, where, missing

    @property
    def _store(self) -> Any:
        """The store, made at the first read: credentials are looked for then, as boto3 does."""
        with self._lock:
            if self._made is None:
                try:
                    self._made = self._make()
                except ValueError as error:
                    raise AccessDenied(
                        f"{self._where}: no usable credentials ({error}); {CREDENTIALS_REMEDY}"
                    ) from error
            return self._made

    @property
    def group(self) -> int:
        """The most ranges of a call."""
        return GROUP

    def read(self, key: str, start: int, length: int | None) -> bytes:
        """Return the bytes of one range; see ObjectReader.read."""
        if length is not None:
            return self.read_group([ByteRange(key, start, length)])[0]
        store = self._store
        try:
            options = {"range": {"offset": start}} if start else None
            answer = self._obstore.get(store, self._root + key, options=options)
            data = bytes(answer.bytes())
        except Exception as error:
            raise self._failure(error, key, start, None) from error
        if not data:
            raise CorruptData(past_end(self._where, key, start, None, start))
        return data

    def read_group(self, ranges: Sequence[ByteRange]) -> list[bytes]:
        """Return the bytes of each of up to GROUP ranges of one object, all of a known length."""
        key = ranges[0].key
        starts = [asked.start for asked in ranges]
        lengths = [asked.length or 0 for asked in ranges]
        store = self._store
        try:
            bodies = self._obstore.get_ranges(
                store, self._root + key, starts=starts, lengths=lengths, coalesce=0
            )
        except Exception as error:
            raise self._failure(error, key, starts[0], lengths[0]) from error
        found = [bytes(body) for body in bodies]
        for start, length, data in zip(starts, lengths, found, strict=True):
            if len(data) != length:
                raise CorruptData(past_end(self._where, key, start, length, start + len(data)))
        return found

    def close(self) -> None:
        """Do nothing: connections go with the object."""

    def _failure(self, error: Exception, key: str, start: int, length: int | None) -> Exception:
        exceptions, text = self._obstore.exceptions, str(error)
        if isinstance(error, FileNotFoundError):
            return self._missing(key)
        # obstore has one error for most of what a server may answer; the text holds its status.
        found = re.search(r"status code: (\d{3})", text)
        status = int(found[1]) if found else 0
        if status == 416:
            return CorruptData(past_end(self._where, key, start, length, None))
        if "non-partial response" in text:
            return ignores_ranges(self._where, key)
        reason = f"{self._where}: cannot read {key!r} ({text.partition('Debug source')[0].strip()[:500]})"
        if isinstance(error, (exceptions.PermissionDeniedError, exceptions.UnauthenticatedError)):
            return AccessDenied(f"{reason}; check the credentials ({CREDENTIALS_REMEDY})")
        lasting = 400 <= status < 500 and status not in (408, 429)
        if isinstance(error, (exceptions.GenericError, OSError)) and not lasting:
            return StoreUnavailable(
                f"{reason}; check that the endpoint is right and the server runs, then try again"
            )
        return StorageError(reason)


def _make_store(bucket: str, options: S3Options, settings: Settings) -> Any:
    from obstore.store import S3Store as RustStore

    config: dict[str, Any] = {}
    if options.endpoint_url is not None:
        config["endpoint"] = options.endpoint_url
        config["region"] = options.region or "us-east-1"
    elif options.region is not None:
        config["region"] = options.region
    style = options.addressing_style or ("path" if options.endpoint_url else "auto")
    config["virtual_hosted_style_request"] = style == "virtual"
    if options.access_key_id is not None:
        config["access_key_id"] = options.access_key_id
        config["secret_access_key"] = options.secret_access_key
        if options.session_token is not None:
            config["token"] = options.session_token
    else:
        from obstore.auth.boto3 import Boto3CredentialProvider

        config["credential_provider"] = Boto3CredentialProvider()
    plain = options.endpoint_url is not None and options.endpoint_url.startswith("http://")
    backoff: Any = {
        "init_backoff": timedelta(seconds=settings.retry_first_s),
        "max_backoff": timedelta(seconds=settings.retry_longest_s),
        "base": 2,
    }
    retries: Any = {"max_retries": settings.n_retries, "backoff": backoff}
    return RustStore(
        bucket,
        client_options={"allow_http": plain, "connect_timeout": "10 seconds", "timeout": "60 seconds"},
        retry_config=retries,
        **config,
    )
