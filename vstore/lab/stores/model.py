"""A store as numbers: latency, bandwidths, limits, prices."""

from __future__ import annotations

import math
from dataclasses import dataclass

from vstore.lab.stores.latency import Latency
from vstore.settings import require


@dataclass(frozen=True, slots=True)
class StoreModel:
    """What reads of a store take and cost; `clock.SimulatedStore` makes it act.

    A request waits for one of `concurrency` connections, then for its turn under the rate limit, then for the
    client's processor, which sends it, then `latency` for the first byte; its bytes come at `bytes_per_s` at
    most, and share the link of all; at last the client's processor receives it. The processor does one thing
    at a time: what it sends, it sends before what comes back meanwhile.

    Raises:
        InvalidSetting: a limit of 0 or less, a negative time, or a negative price.
    """

    name: str
    latency: Latency
    bytes_per_s: float = math.inf
    """Of one connection."""
    link_bytes_per_s: float = math.inf
    """Of all connections together."""
    concurrency: int = 32
    """Requests in flight at once."""
    requests_per_s: float = math.inf
    """Above it the store throttles: requests wait for their turn, as clients that back off do."""
    burst_requests: int = 1
    """Requests that may come at once before the rate limit holds."""
    send_ms: float = 0.0
    """The client's processor time to send a request; presets leave it out: it is the client's, not theirs."""
    receive_ms: float = 0.0
    """The client's processor time to receive an answer."""
    usd_per_1000_requests: float = 0.0
    usd_per_gb: float = 0.0
    """For each 10^9 bytes read."""
    source: str = ""
    """Where the figures come from."""

    def __post_init__(self) -> None:
        limits = (self.bytes_per_s, self.link_bytes_per_s, self.requests_per_s)
        require(
            min(limits) > 0,
            f"{self.name}: bytes_per_s, link_bytes_per_s and requests_per_s are {limits}; above 0 is needed",
        )
        require(
            min(self.concurrency, self.burst_requests) >= 1,
            f"{self.name}: concurrency is {self.concurrency} and burst_requests {self.burst_requests}; "
            "both must be 1 or more",
        )
        work = (self.send_ms, self.receive_ms)
        require(min(work) >= 0, f"{self.name}: send_ms and receive_ms are {work}; they must be 0 or more")
        prices = (self.usd_per_1000_requests, self.usd_per_gb)
        require(min(prices) >= 0, f"{self.name}: prices are {prices}; they must be 0 or more")

    def cost_usd(self, n_requests: int, n_bytes: int) -> float:
        """Return what reads cost."""
        return n_requests * self.usd_per_1000_requests / 1000 + n_bytes * self.usd_per_gb / 1e9
