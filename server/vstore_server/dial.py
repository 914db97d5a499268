"""What both clients agree on before a socket opens: addresses, options, credentials, failures."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeVar
from urllib.parse import urlsplit

import grpc

from vstore.errors import InvalidSetting, VstoreError
from vstore.settings import require
from vstore_server import errors
from vstore_server.auth import is_local
from vstore_server.settings import ClientTLS

T = TypeVar("T")
SCHEME = "vstore://"
DEFAULT_PORT = 8765


@dataclass(frozen=True, slots=True)
class Dial:
    """Where a client connects, and how.

    Raises:
        InvalidSetting: an address that cannot be, or a token that would cross a network in clear.
    """

    url: str
    token: str | None = field(default=None, repr=False)
    tls: ClientTLS | bool = False
    timeout_s: float | None = 60.0
    n_retries: int = 3
    insecure: bool = False

    def __post_init__(self) -> None:
        require(
            self.timeout_s is None or self.timeout_s > 0, f"timeout_s is {self.timeout_s}; it must be above 0"
        )
        require(self.n_retries >= 0, f"n_retries is {self.n_retries}; it must be 0 or more")
        require(
            self.token is None or (self.token.isascii() and self.token.isprintable()),
            "the token has characters that no token has; pass it as vstore serve token printed it",
        )
        require(
            self.token is None or bool(self.tls) or self.insecure or is_local(self.target),
            f"the token would travel to {self.target} in clear; pass tls=True (or ClientTLS(...)), or "
            "insecure=True where the network itself is closed",
        )

    @property
    def target(self) -> str:
        """What gRPC dials."""
        require(self.url.startswith(SCHEME), f"the server's url is {self.url!r}; write vstore://host:port")
        rest = self.url.removeprefix(SCHEME)
        if rest.startswith("unix:"):
            return rest
        try:
            parts = urlsplit(self.url)
            host, port = parts.hostname, parts.port or DEFAULT_PORT
        except ValueError as error:
            raise InvalidSetting(f"the server's url is {self.url!r}: {error}") from None
        require(
            bool(host) and not parts.path.strip("/") and "@" not in rest,
            f"the server's url is {self.url!r}; write vstore://host:port (a token is an argument of its own)",
        )
        return f"[{host}]:{port}" if ":" in str(host) else f"{host}:{port}"

    @property
    def metadata(self) -> tuple[tuple[str, str], ...]:
        """What every request carries."""
        return () if self.token is None else (("authorization", f"Bearer {self.token}"),)

    @property
    def options(self) -> list[tuple[str, Any]]:
        """The channel's options."""
        options: list[tuple[str, Any]] = [
            ("grpc.max_receive_message_length", -1),
            ("grpc.max_send_message_length", -1),
            # Calls are tried again by rules of their own, which know what may run twice.
            ("grpc.enable_retries", 0),
            ("grpc.use_local_subchannel_pool", 1),
            ("grpc.keepalive_time_ms", 30_000),
        ]
        if is_local(self.target):
            options.append(("grpc.enable_http_proxy", 0))
        if isinstance(self.tls, ClientTLS) and self.tls.server_name is not None:
            options.append(("grpc.ssl_target_name_override", self.tls.server_name))
        return options

    @property
    def credentials(self) -> Any:
        """The channel's TLS, or None for none."""
        if not self.tls:
            return None
        tls = self.tls if isinstance(self.tls, ClientTLS) else ClientTLS()
        return grpc.ssl_channel_credentials(tls.ca, tls.key, tls.certificate)


def error_of(error: Any) -> VstoreError:
    """Return the exception that a grpc.RpcError stands for."""
    trailing: Iterable[tuple[str, Any]] = error.trailing_metadata() or ()
    metadata: Mapping[str, str] = {key: value for key, value in trailing if isinstance(value, str)}
    return errors.error_from(error.code().name, error.details(), metadata)


class Source(Iterator[T]):
    """Passes an iterator on; where it raises, the stream ends there, and `failure` says why.

    gRPC would only say that it raised something, and cancel what was sent before it.
    """

    def __init__(self, items: Iterable[T]) -> None:
        self._items = iter(items)
        self.failure: Exception | None = None

    def __next__(self) -> T:
        try:
            return next(self._items)
        except StopIteration:
            raise
        except Exception as error:
            self.failure = error
            raise StopIteration from None

    def check(self) -> None:
        """Raise what the iterator raised."""
        if self.failure is not None:
            raise self.failure
