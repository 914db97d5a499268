"""Fetches blocks for sessions: from the disk tier where it holds them, the rest in one parallel round."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from vstore.cache import BlockKey, DiskTier
from vstore.shard import sections
from vstore.shard.session import ShardSession
from vstore.storage.base import ObjectStore
from vstore.storage.coalesce import plan_of
from vstore.storage.retries import counted_retries


@dataclass(slots=True)
class ReadMeter:
    """What fetching cost: `n_blocks` came from the store, `n_disk_hits` from the disk tier.

    `n_requests` counts those that were repeated, `n_retries`, too.
    """

    n_round_trips: int = 0
    n_requests: int = 0
    n_retries: int = 0
    bytes_fetched: int = 0
    n_blocks: int = 0
    n_disk_hits: int = 0
    read_ms: float = 0.0


def fetch(
    store: ObjectStore,
    disk: DiskTier | None,
    wanted: Sequence[tuple[ShardSession, Sequence[BlockKey]]],
    meter: ReadMeter,
    *,
    ahead: bool = True,
) -> None:
    """Make blocks resident in their sessions, and with them what the cache's prefetch reads ahead.

    Args:
        store: holds the shards.
        disk: the tier asked first, if any; what comes from the store is offered to it.
        wanted: sessions and the keys that each lacks.
        meter: is added to.
        ahead: whether the cache's prefetch has its say.

    Raises:
        CorruptData: bytes from the store fail their checksum; nothing of them is kept.
        StorageError: the store failed.
    """
    if ahead:
        wanted = [(session, [*keys, *session.ahead(keys)]) for session, keys in wanted]
    flat = [(session, key) for session, keys in wanted for key in keys]
    stored: list[bytes | None] = [None] * len(flat)
    if disk is not None:
        stored = disk.get_many([key for _, key in flat])
    lacking = [i for i, data in enumerate(stored) if data is None]
    ranges = [flat[i][0].range_of(flat[i][1]) for i in lacking]
    if ranges:
        with counted_retries() as repeated:
            for i, data in zip(lacking, store.get_many(ranges), strict=True):
                stored[i] = data
        requests = plan_of(store, ranges)
        meter.n_round_trips += 1
        meter.n_retries += sum(repeated)
        meter.n_requests += len(requests) + sum(repeated)
        meter.bytes_fetched += sum(request.range.length or 0 for request in requests)
    meter.n_blocks += len(lacking)
    meter.n_disk_hits += len(flat) - len(lacking)
    fresh = set(lacking)
    mended: list[tuple[BlockKey, bytes]] = []

    def again(session: ShardSession, key: BlockKey) -> bytes:
        assert disk is not None
        disk.drop(key)
        part = session.range_of(key)
        meter.n_round_trips += 1
        meter.n_requests += 1
        meter.bytes_fetched += part.length or 0
        data = store.get(part.key, part.start, part.length)
        mended.append((key, data))
        return data

    at = 0
    for session, keys in wanted:
        places = range(at, at + len(keys))
        from_disk = {flat[i][1] for i in places if i not in fresh}
        session.receive(keys, [stored[i] or b"" for i in places], from_disk, again)
        at += len(keys)
    if disk is not None and (lacking or mended):
        # All were decoded by now, so all passed their checks.
        fetched = [(flat[i][1], stored[i] or b"") for i in lacking] + mended
        # The tier keeps a file a block: sketches are many, small, and of no use once codes are there.
        disk.put_many([(key, data) for key, data in fetched if key.section != sections.SKETCHES])
