"""Credentials, and a boto3 client that keeps clear of the traps that were measured."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import botocore
import botocore.session
from botocore.config import Config
from botocore.credentials import ReadOnlyCredentials
from botocore.exceptions import BotoCoreError
from botocore.handlers import add_expect_header
from botocore.utils import is_valid_endpoint_url, validate_region_name

from vstore.errors import InvalidSetting, MissingDependency
from vstore.settings import Settings, require

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

MIN_BOTOCORE = (1, 43, 77)
"""Older ones hang on the PUT after an empty one: https://github.com/boto/botocore/issues/3755."""
CONNECT_TIMEOUT_S = 10.0
READ_TIMEOUT_S = 60.0
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


class S3Access:
    """Who asks where: credentials and configuration at once, boto3's client when it is first needed.

    Making a client takes a third of a second, most of it to import boto3 and to read S3's description, and
    reads go without.
    Thread-safe.

    Args:
        options: endpoint, region, credentials.
        settings: n_retries and io_concurrency are used.

    Raises:
        InvalidSetting: boto3 refuses the options.
        MissingDependency: botocore is too old.
    """

    def __init__(self, options: S3Options, settings: Settings) -> None:
        check_botocore()
        self.options, self._settings = options, settings
        self._lock = threading.Lock()
        self._client: S3Client | None = None
        # Where credentials are given no client of botocore's is needed to find them; its handlers, which only
        # clients call, take longer to register than a request takes.
        self._has_keys = options.access_key_id is not None and options.secret_access_key is not None
        self._botocore = self._session(handlers=not self._has_keys)
        with self._accepted():
            validate_region_name(self._botocore.get_config_variable("region"))
            url = options.endpoint_url
            if url is not None and not is_valid_endpoint_url(url):
                raise ValueError(f"Invalid endpoint: {url}")

    @property
    def region(self) -> str | None:
        """The region of requests; None where boto3 alone can say."""
        region: Any = self._botocore.get_config_variable("region")
        # A signature needs some region; a server with its own endpoint takes any.
        return region or ("us-east-1" if self.options.endpoint_url is not None else None)

    def configured(self, name: str) -> Any:
        """Return a variable of botocore's configuration: of the environment or the profile; None if unset.

        Raises:
            InvalidSetting: there is no such profile, or its file cannot be read.
        """
        with self._accepted():
            return self._botocore.get_config_variable(name)

    def profile(self) -> dict[str, Any]:
        """Return the profile's part of the configuration file.

        Raises:
            InvalidSetting: there is no such profile, or its file cannot be read.
        """
        with self._accepted():
            found: dict[str, Any] = self._botocore.get_scoped_config()
        return found

    def credentials(self) -> ReadOnlyCredentials | None:
        """Return valid credentials, renewed where they were about to expire; None where there are none.

        Raises:
            BotoCoreError: they could not be fetched.
        """
        found: Any = self._botocore.get_credentials()
        return None if found is None else found.get_frozen_credentials()

    @property
    def client(self) -> S3Client:
        """A client that many threads may share; made by whoever asks first.

        Raises:
            InvalidSetting: boto3 refuses the options.
        """
        with self._lock:
            if self._client is None:
                self._client = self._made()
            return self._client

    def close(self) -> None:
        """Release the client's connections."""
        with self._lock:
            if self._client is not None:
                self._client.close()

    def _session(self, handlers: bool) -> Any:
        options, made = self.options, botocore.session.Session(include_builtin_handlers=handlers)
        with self._accepted():
            if options.region is not None:
                made.set_config_variable("region", options.region)
            if options.access_key_id is not None and options.secret_access_key is not None:
                made.set_credentials(options.access_key_id, options.secret_access_key, options.session_token)
        return made

    def _made(self) -> S3Client:
        options, settings = self.options, self._settings
        s3: Any = {}
        if options.addressing_style is not None:
            s3["addressing_style"] = options.addressing_style
        config = Config(
            s3=s3,
            retries={"total_max_attempts": settings.n_retries + 1, "mode": "standard"},
            max_pool_connections=settings.io_concurrency + 2,
            connect_timeout=CONNECT_TIMEOUT_S,
            read_timeout=READ_TIMEOUT_S,
            tcp_keepalive=True,
            # vstore's blocks carry their own checksums, and some servers send a whole object's with a range.
            response_checksum_validation="when_required",
            user_agent_extra="vstore",
        )
        import boto3

        session = self._session(handlers=True) if self._has_keys else self._botocore
        with self._accepted():
            client = boto3.session.Session(botocore_session=session).client(
                "s3", endpoint_url=options.endpoint_url, region_name=self.region, config=config
            )
        # A server that answers without "100 Continue" costs every PUT a wait.
        client.meta.events.unregister("before-call.s3", add_expect_header)
        return client

    @contextmanager
    def _accepted(self) -> Iterator[None]:
        try:
            yield
        except (BotoCoreError, ValueError) as error:
            raise InvalidSetting(f"boto3 refuses the S3 options: {error}; check {self.options!r}") from error
