"""How a server runs: values only."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path

from vstore.errors import InvalidSetting
from vstore.settings import require
from vstore_server.auth import is_local
from vstore_server.codec import Limits

DEFAULT_LISTEN = "127.0.0.1:8765"


@dataclass(frozen=True, slots=True)
class ServerSettings:
    """How a server listens, shares its threads and ends.

    Raises:
        InvalidSetting: a value outside its limits.
    """

    listen: str = DEFAULT_LISTEN
    """host:port, [ipv6]:port or unix:path; port 0 takes a free one."""
    insecure: bool = False
    """Listen on a public address without TLS or tokens all the same."""
    n_search_threads: int = field(default_factory=lambda: max(1, os.cpu_count() or 1))
    n_rerank_threads: int = 16
    """Threads of searches that re-rank: they wait for one model, which takes them together."""
    n_write_threads: int = 4
    """Upserts that arrive together share one log object, so they may well wait together."""
    n_upkeep_threads: int = 2
    """Threads of flush, compact and warm."""
    max_waiting: int = 256
    """Requests that may wait for the threads of one lane; one tenant may hold half of them."""
    refresh_s: float = 1.0
    """What other processes publish is seen at most this late."""
    wait_s: float = 10.0
    """A read waits so long for the version that it asks to see (`at_least`)."""
    drain_s: float = 30.0
    """How long a stopping server lets running requests finish."""
    slow_ms: float = 1000.0
    """A request that took longer is logged."""
    log_requests: bool = False
    """Log every request, not the slow and the failed alone."""
    metrics: str | None = None
    """host:port of an HTTP port with /metrics, /livez and /readyz; None opens none."""
    metrics_public: bool = False
    """Let that port be an address that other machines reach: it has neither TLS nor tokens."""
    limits: Limits = field(default_factory=Limits)

    def __post_init__(self) -> None:
        unix = self.listen.startswith(("unix:", "unix-abstract:"))
        require(
            unix or (":" in self.listen and _is_port(self.listen)),
            f"listen is {self.listen!r}; write host:port, as {DEFAULT_LISTEN}, or unix:path",
        )
        for name in (
            "n_search_threads",
            "n_rerank_threads",
            "n_write_threads",
            "n_upkeep_threads",
            "max_waiting",
        ):
            value = getattr(self, name)
            require(
                isinstance(value, int) and 1 <= value <= 4096,
                f"{name} is {value!r}; it must be a whole number from 1 to 4096",
            )
        require(
            self.metrics is None or (":" in self.metrics and _is_port(self.metrics)),
            f"metrics is {self.metrics!r}; write host:port, as 127.0.0.1:9464",
        )
        require(
            self.metrics is None or self.metrics_public or is_local(self.metrics),
            f"metrics is {self.metrics}, which other machines reach; that port has neither TLS nor tokens: "
            "use 127.0.0.1, or allow it with --metrics-public where the network itself is closed",
        )
        for name in ("refresh_s", "wait_s", "drain_s", "slow_ms"):
            value = getattr(self, name)
            require(value >= 0, f"{name} is {value!r}; it must be 0 or more")


def _is_port(address: str) -> bool:
    port = address.rpartition(":")[2]
    return port.isascii() and port.isdigit() and int(port) < 1 << 16


@dataclass(frozen=True, slots=True)
class ServerTLS:
    """PEM bytes of a server's certificate chain and key; with `client_ca`, clients must show one too."""

    certificate: bytes = field(repr=False)
    key: bytes = field(repr=False)
    client_ca: bytes | None = field(default=None, repr=False)


@dataclass(frozen=True, slots=True)
class ClientTLS:
    """PEM bytes of what a client trusts (None: the system's) and, for mutual TLS, of what it shows."""

    ca: bytes | None = field(default=None, repr=False)
    certificate: bytes | None = field(default=None, repr=False)
    key: bytes | None = field(default=None, repr=False)
    server_name: str | None = None
    """The name in the server's certificate, where it is not the host that is dialled."""


def read_pem(path: str | Path, what: str) -> bytes:
    """Return a PEM file's bytes.

    Raises:
        InvalidSetting: it cannot be read, or holds no PEM.
    """
    try:
        data = Path(path).read_bytes()
    except OSError as error:
        raise InvalidSetting(f"{what} cannot be read: {error}") from None
    require(b"-----BEGIN " in data, f"{what} holds no PEM block (-----BEGIN ...)")
    return data
