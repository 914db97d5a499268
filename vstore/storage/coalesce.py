"""Read near ranges of one object as one request: plan, and split back."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, Protocol, runtime_checkable

from vstore.storage.base import ByteRange, SparseRange


class Fetch(NamedTuple):
    """One request: the range to read, and the positions of the asked ranges that lie in it."""

    range: ByteRange
    parts: tuple[int, ...]


@runtime_checkable
class PlansFetches(Protocol):
    """A store that reads several ranges by fewer requests, and can say which: for honest counters."""

    def plan(self, ranges: Sequence[ByteRange]) -> list[Fetch]:
        """Return the requests that `get_many(ranges)` would send."""
        ...


def plan_coalesce(ranges: Sequence[ByteRange], gap_bytes: int, max_bytes: int) -> list[Fetch]:
    """Return the fewest requests, in key and offset order, that cover `ranges`.

    Ranges of one object are merged where at most `gap_bytes` lie between them and the result is at most
    `max_bytes` long; a range inside another always joins it. Ranges to the end of an object stay alone;
    empty ranges need no request. A `SparseRange` is merged over its own gap at most.
    """
    closed = []
    fetches = []
    for position, asked in enumerate(ranges):
        key, start, length = asked
        if length is None:
            fetches.append(Fetch(ByteRange(key, start, None), (position,)))
        elif length > 0:
            gap = min(gap_bytes, asked.gap_bytes) if isinstance(asked, SparseRange) else gap_bytes
            closed.append((key, start, start + length, position, gap))
    closed.sort()
    parts: list[int] = []
    now_key, now_start, now_end = "", 0, 0
    for key, start, end, position, gap in closed:
        inside = parts and key == now_key and end <= now_end
        near = parts and key == now_key and start - now_end <= gap and end - now_start <= max_bytes
        if inside or near:
            parts.append(position)
            now_end = max(now_end, end)
            continue
        if parts:
            fetches.append(Fetch(ByteRange(now_key, now_start, now_end - now_start), tuple(parts)))
        parts, now_key, now_start, now_end = [position], key, start, end
    if parts:
        fetches.append(Fetch(ByteRange(now_key, now_start, now_end - now_start), tuple(parts)))
    return fetches


def split_fetches(
    ranges: Sequence[ByteRange], fetches: Sequence[Fetch], bodies: Sequence[bytes]
) -> list[bytes]:
    """Return the bytes of each of `ranges`, cut from the bodies of their fetches."""
    out = [b""] * len(ranges)
    for fetch, body in zip(fetches, bodies, strict=True):
        for position in fetch.parts:
            _, start, length = ranges[position]
            offset = start - fetch.range.start
            if length is None or length == len(body):
                out[position] = body
            else:
                out[position] = body[offset : offset + length]
    return out


def plan_of(store: object, ranges: Sequence[ByteRange]) -> list[Fetch]:
    """Return the requests that `store` would send for `ranges`: one each where it does not say."""
    if isinstance(store, PlansFetches):
        return store.plan(ranges)
    return [Fetch(asked, (i,)) for i, asked in enumerate(ranges) if asked.length != 0]
