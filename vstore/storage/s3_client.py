"""Make a boto3 client that keeps clear of the traps that were measured."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import boto3
import botocore
from botocore.config import Config
from botocore.exceptions import BotoCoreError
from botocore.handlers import add_expect_header

from vstore.errors import InvalidSetting, MissingDependency
from vstore.settings import Settings, require

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

MIN_BOTOCORE = (1, 43, 77)
"""Older ones hang on the PUT after an empty one: https://github.com/boto/botocore/issues/3755."""
ADDRESSING_STYLES = ("auto", "path", "virtual")


@dataclass(frozen=True, slots=True)
class S3Options:
    """Where a bucket is and who asks; None: from boto3's usual chain (environment, profile, role).

    Raises:
        InvalidSetting: half a pair of keys, or an unknown addressing style.
    """

    endpoint_url: str | None = None
    """For a server other than AWS, as "http://127.0.0.1:8333"."""
    region: str | None = None
    access_key_id: str | None = None
    secret_access_key: str | None = field(default=None, repr=False)
    session_token: str | None = field(default=None, repr=False)
    addressing_style: str | None = None
    """"path" (endpoint/bucket/key), "virtual" (bucket.endpoint/key); None: path with an endpoint_url."""

    def __post_init__(self) -> None:
        require(
            (self.access_key_id is None) == (self.secret_access_key is None),
            "access_key_id and secret_access_key belong together; pass both, or neither",
        )
        require(
            self.session_token is None or self.access_key_id is not None,
            "session_token comes with access_key_id and secret_access_key; pass all three, or none",
        )
        require(
            self.addressing_style is None or self.addressing_style in ADDRESSING_STYLES,
            f"addressing_style is {self.addressing_style!r}; one of {', '.join(ADDRESSING_STYLES)} is meant",
        )
        require(
            self.endpoint_url is None or self.endpoint_url.startswith(("http://", "https://")),
            f"endpoint_url is {self.endpoint_url!r}; it must begin with http:// or https://",
        )


def check_botocore(version: str = botocore.__version__) -> None:
    """Return where this botocore is new enough.

    Raises:
        MissingDependency: it is not.
    """
    parts = tuple(int(part) for part in version.split(".")[:3] if part.isdigit())
    if parts < MIN_BOTOCORE:
        least = ".".join(map(str, MIN_BOTOCORE))
        raise MissingDependency(
            f"botocore is {version}, but vstore needs {least} or later (older ones can hang on a PUT); "
            f"run: pip install 'boto3>={least}'"
        )


def make_client(options: S3Options, settings: Settings) -> S3Client:
    """Return a client that many threads may share.

    Raises:
        InvalidSetting: boto3 refuses the options.
        MissingDependency: botocore is too old.
    """
    check_botocore()
    s3: Any = {}
    if options.addressing_style is not None:
        s3["addressing_style"] = options.addressing_style
    config = Config(
        s3=s3,
        retries={"total_max_attempts": settings.n_retries + 1, "mode": "standard"},
        max_pool_connections=settings.io_concurrency + 2,
        connect_timeout=10,
        read_timeout=60,
        tcp_keepalive=True,
        # vstore's blocks carry their own checksums, and some servers send a whole object's with a range.
        response_checksum_validation="when_required",
        user_agent_extra="vstore",
    )
    try:
        session = boto3.session.Session(
            aws_access_key_id=options.access_key_id,
            aws_secret_access_key=options.secret_access_key,
            aws_session_token=options.session_token,
            region_name=options.region,
        )
        # A signature needs some region; a server with its own endpoint takes any.
        needs_region = options.endpoint_url is not None and session.region_name is None
        client = session.client(
            "s3",
            endpoint_url=options.endpoint_url,
            region_name="us-east-1" if needs_region else None,
            config=config,
        )
    except (BotoCoreError, ValueError) as error:
        raise InvalidSetting(f"boto3 refuses the S3 options: {error}; check {options!r}") from error
    # A server that answers without "100 Continue" costs every PUT a wait.
    client.meta.events.unregister("before-call.s3", add_expect_header)
    return client
