"""Settings are values: frozen dataclasses with defaults, limits and units in their names."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable
from concurrent.futures import Future, InvalidStateError
from dataclasses import dataclass, field
from typing import Any, Literal

from vstore.errors import InvalidSetting

Clock = Callable[[], float]
"""Seconds since the epoch. Injected, so that tests own time."""
Sleep = Callable[[float], None]


def system_clock() -> float:
    """Return the wall clock, in seconds since the epoch."""
    return time.time()  # noqa: TID251 - the one place that reads it


def system_sleep(seconds: float) -> None:
    """Sleep for `seconds`."""
    time.sleep(seconds)  # noqa: TID251 - the one place that sleeps


def require(condition: bool, message: str) -> None:
    """Raise InvalidSetting(message) unless `condition` holds."""
    if not condition:
        raise InvalidSetting(message)


@dataclass(frozen=True, slots=True)
class IndexSettings:
    """How shards of a collection are built; stored with the collection.

    Raises:
        InvalidSetting: a value outside its limits.
    """

    M: int = 16
    """Links per node above level 0; level 0 holds 2 * M (Malkov & Yashunin 2018)."""
    ef_construction: int = 200
    cluster_rows: int = 512
    """Mean rows of a cluster of the cluster order."""
    block_rows: int = 1024
    """Rows of a storage block; a power of two."""
    shard_rows: int = 1_000_000
    """A flush or compaction that holds more rows writes several shards."""
    seed: int = 0
    codes: Literal["default", "auto", 1, 2, 4, 8] = "default"
    """Bits a component of the codes that guide searches. "default" is 4 from 64 dimensions on, which searches
    fastest, and 8 below, where 4 save nothing; "auto" measures and takes the fewest that do."""
    codes_recall: float = 0.98
    """The recall@10, on rows held out of the graph, that "auto" wants of a width."""
    calibrate: bool = True
    """Measure while building which widths of search reach which recall; small shards need it not."""

    def __post_init__(self) -> None:
        for name in ("M", "ef_construction", "cluster_rows", "block_rows", "shard_rows", "seed"):
            value = getattr(self, name)
            whole = isinstance(value, int) and not isinstance(value, bool)
            require(whole, f"{name} is {value!r}; it must be a whole number (an int)")
        require(2 <= self.M <= 64, f"M is {self.M}; it must be from 2 to 64, and 16 suits most data")
        require(
            self.M <= self.ef_construction <= 10_000,
            f"ef_construction is {self.ef_construction}; it must be from M ({self.M}) to 10000",
        )
        require(
            16 <= self.cluster_rows <= 65_536,
            f"cluster_rows is {self.cluster_rows}; it must be from 16 to 65536",
        )
        require(
            64 <= self.block_rows <= 65_536 and self.block_rows & (self.block_rows - 1) == 0,
            f"block_rows is {self.block_rows}; it must be a power of two from 64 to 65536",
        )
        require(
            1_000 <= self.shard_rows <= 50_000_000,
            f"shard_rows is {self.shard_rows}; it must be from 1000 to 50000000",
        )
        require(
            self.codes in ("default", "auto", 1, 2, 4, 8) and not isinstance(self.codes, bool),
            f"codes is {self.codes!r}; it must be 'default', 'auto' or a number of bits: 1, 2, 4 or 8",
        )
        require(
            0 < self.codes_recall <= 1, f"codes_recall is {self.codes_recall}; it must be above 0, at most 1"
        )
        require(
            isinstance(self.calibrate, bool), f"calibrate is {self.calibrate!r}; it must be True or False"
        )


@dataclass(frozen=True, slots=True)
class Prices:
    """A store's price list, in US dollars. Default: S3 Standard, us-east-1, within the region.

    Source: https://aws.amazon.com/s3/pricing/ (GET 0.0004 per 1,000, PUT and LIST 0.005 per 1,000).
    """

    get_usd: float = 0.0004 / 1000
    put_usd: float = 0.005 / 1000
    gibibyte_out_usd: float = 0.0


class Cancellation:
    """Cancels the searches that it was given to. Thread-safe; it cannot be taken back."""

    def __init__(self) -> None:
        self.future: Future[None] = Future()
        """Done once cancelled: what waits for a read waits for this too."""

    def cancel(self) -> None:
        """Cancel: a search that waits for storage ends at once, one that computes within some 10 ms."""
        with contextlib.suppress(InvalidStateError):
            self.future.set_result(None)

    @property
    def cancelled(self) -> bool:
        """Whether `cancel` was called."""
        return self.future.done()


@dataclass(frozen=True, slots=True)
class QueryLimits:
    """What one search may take of storage and time.

    Raises:
        InvalidSetting: a limit that is not above 0, or not a number.
    """

    deadline_ms: float | None = None
    """The search ends so many milliseconds after it began, in `QueryTimeout`."""
    max_requests: int | None = None
    """The most requests to the store, repeated ones aside; a round that would exceed it is not sent."""
    max_bytes: int | None = None
    """The most bytes read, which bounds what a search holds of blocks beside the cache."""
    partial: bool = False
    """Instead of an error, return what the shards that had answered found; the receipt says `partial`."""
    cancel: Cancellation | None = None

    def __post_init__(self) -> None:
        for name in ("deadline_ms", "max_requests", "max_bytes"):
            value = getattr(self, name)
            fine = value is None or (isinstance(value, (int, float)) and not isinstance(value, bool))
            require(
                fine and (value is None or value > 0), f"{name} is {value!r}; it must be above 0, or None"
            )

    @property
    def bind(self) -> bool:
        """Whether there is any limit."""
        return any(v is not None for v in (self.deadline_ms, self.max_requests, self.max_bytes, self.cancel))


@dataclass(frozen=True, slots=True)
class Settings:
    """How this process runs a store; never stored.

    Raises:
        InvalidSetting: a value outside its limits.
    """

    cache_bytes: int = 1 << 30
    """Limit of the memory tier of the block cache, shared by all collections of a connection."""
    disk_cache_bytes: int = 10 << 30
    """Limit of the disk tier, where `connect(cache_dir=...)` names a folder for it."""
    cache_eviction: str | Callable[[], Any] = "s3_fifo"
    """What leaves the memory tier: "s3_fifo", "lru", "pin_hubs" or "none", or what makes an `Eviction`."""
    cache_admission: str | Callable[[], Any] = "all"
    """Which blocks the memory tier keeps: "all", "second" or "none", or what makes an `Admission`."""
    cache_prefetch: str | Callable[[], Any] = "none"
    """What a round reads ahead: "none" or "adjacent", or what makes a `Prefetch`."""
    disk_cache_admission: str | Callable[[], Any] = "all"
    """Which blocks the disk tier keeps, as for memory; its eviction goes by last use, across processes."""
    hydrate_bytes: int | None = None
    """A shard of at most this size is read whole, in the background, after its first query; a merged one gets
    what its forerunners had in memory. 0 turns both off; None is 32 MiB on S3 and 0 elsewhere."""
    memtable_rows: int = 50_000
    """One of this many rows is flushed; writes wait for it at one and a half times as many."""
    memtable_bytes: int = 256 << 20
    shard_bytes: int = 1 << 30
    """Flushes, merges and `bulk_load` begin a new shard where codes and neighbour lists would take more."""
    background: bool = True
    """Flush full memtables and merge shards in a thread; without it, the write that fills one flushes it."""
    n_threads: int = field(default_factory=lambda: max(1, os.cpu_count() or 1))
    """Threads of a build and of `search_batch`."""
    io_concurrency: int = 32
    """Requests in flight at once on an object store."""
    coalesce_gap_bytes: int = 64 << 10
    """Ranges of one object that are nearer than this are read as one request."""
    coalesce_max_bytes: int = 8 << 20
    """A coalesced request is at most this long."""
    n_retries: int = 5
    """How often what may pass is asked again."""
    retry_first_s: float = 0.05
    """The wait before the first repeat is at most this; it doubles from repeat to repeat."""
    retry_longest_s: float = 2.0
    """No wait before a repeat is longer."""
    cold_plan: Literal["auto", "clusters", "walk"] = "auto"
    """How a shard is searched whose codes are not all cached: "clusters" scans the codes of whole clusters,
    read in one round; "walk" goes as a warm search does, and waits for what it meets. "auto": clusters
    on S3."""
    cold_bytes: int = 8 << 20
    """The most codes that a scan of clusters reads for one query, over all shards; four times as much under a
    filter whose rows lie away from the query."""
    s3_reader: Literal["presigned", "boto3", "obstore"] = "presigned"
    """How S3 is read: by presigned URLs, for a fraction of boto3's processor time, by boto3, by obstore."""
    retention_s: float = 3600.0
    """Garbage collection keeps what a manifest younger than this names."""
    lease_s: float = 600.0
    """A handle on a snapshot keeps it from garbage collection for so long after its last use."""
    limits: QueryLimits = field(default_factory=QueryLimits)
    """Of every search that is given none of its own."""
    prices: Prices = field(default_factory=Prices)
    clock: Clock = system_clock
    sleep: Sleep = system_sleep

    def __post_init__(self) -> None:
        require(self.cache_bytes >= 0, f"cache_bytes is {self.cache_bytes}; it must be 0 or more")
        require(
            self.disk_cache_bytes >= 0, f"disk_cache_bytes is {self.disk_cache_bytes}; it must be 0 or more"
        )
        require(
            self.hydrate_bytes is None or self.hydrate_bytes >= 0,
            f"hydrate_bytes is {self.hydrate_bytes}; it must be 0 or more, or None",
        )
        require(self.memtable_rows >= 1, f"memtable_rows is {self.memtable_rows}; it must be 1 or more")
        require(self.memtable_bytes >= 1, f"memtable_bytes is {self.memtable_bytes}; it must be 1 or more")
        require(self.shard_bytes >= 1 << 16, f"shard_bytes is {self.shard_bytes}; it must be 65536 or more")
        require(self.n_threads >= 1, f"n_threads is {self.n_threads}; it must be 1 or more")
        require(
            1 <= self.io_concurrency <= 1024,
            f"io_concurrency is {self.io_concurrency}; it must be from 1 to 1024",
        )
        require(
            self.coalesce_gap_bytes >= 0, f"coalesce_gap_bytes is {self.coalesce_gap_bytes}; not negative"
        )
        require(self.coalesce_max_bytes >= 1, f"coalesce_max_bytes is {self.coalesce_max_bytes}; 1 or more")
        require(self.n_retries >= 0, f"n_retries is {self.n_retries}; it must be 0 or more")
        require(
            0 <= self.retry_first_s <= self.retry_longest_s,
            f"retry_first_s is {self.retry_first_s} and retry_longest_s {self.retry_longest_s}; "
            "the first must be 0 or more, and the longest no less than it",
        )
        require(
            self.cold_plan in ("auto", "clusters", "walk"),
            f"cold_plan is {self.cold_plan!r}; it must be 'auto', 'clusters' or 'walk'",
        )
        require(self.cold_bytes >= 1, f"cold_bytes is {self.cold_bytes}; it must be 1 or more")
        require(
            self.s3_reader in ("presigned", "boto3", "obstore"),
            f"s3_reader is {self.s3_reader!r}; it must be 'presigned', 'boto3' or 'obstore'",
        )
        require(self.retention_s >= 0, f"retention_s is {self.retention_s}; it must be 0 or more")
        require(self.lease_s > 0, f"lease_s is {self.lease_s}; it must be more than 0")

    def backoff_s(self, attempt: int) -> float:
        """Return the longest wait after the attempt of that index, counted from 0."""
        return min(self.retry_longest_s, self.retry_first_s * 2.0 ** min(attempt, 60))
