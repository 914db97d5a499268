"""The rows of a shard that pass a filter, with no more of its columns read than knowing them exactly takes.

Small columns come whole with the head. Of large ones come the summaries of their zones; these decide most
rows of a selective filter, and the blocks of the others are read in one more round. Columns that the cache
has whole are used whole.
"""

from __future__ import annotations

from vstore.filters import Filter
from vstore.filters.zones import Summary
from vstore.format.columns import Column, null_column
from vstore.query.rounds import Pipeline
from vstore.shard import sections
from vstore.shard.session import ShardSession
from vstore.types import Bools


def matching_rows(session: ShardSession, filter: Filter) -> Pipeline[Bools]:
    """Pin the shard's head and return bool[n]: its rows that pass, dead ones included."""
    shard, types = session.shard, session.shard.schema.fields
    names = [name for name in sorted(filter.fields) if shard.has_column(name)]
    zoned = [name for name in names if _worth_zones(session, name)]
    small = [name for name in names if name not in zoned]
    blooms = [name for name in zoned if shard.has_blooms(name) and filter.asks_for_values(name)]
    yield [
        session.key(sections.HEAD),
        *(session.key(sections.column_section(name)) for name in small),
        *(session.key(sections.zones_section(name)) for name in zoned),
        *(session.key(sections.bloom_section(name)) for name in blooms),
    ]
    whole: dict[str, Column] = {
        name: session.get(sections.column_section(name))
        if name in small
        else null_column(types[name], session.n)
        for name in filter.fields
        if name not in zoned
    }
    if not zoned:
        return filter.evaluate(whole, session.n)
    summaries = {
        name: Summary(
            session.get(sections.zones_section(name)),
            session.get(sections.bloom_section(name)) if name in blooms else None,
        )
        for name in zoned
    }
    head = session.head
    rows = filter.by_zones(head.zone_starts, session.n, head.column_block_rows, whole, summaries)
    needed = [
        key
        for name, blocks in rows.needed().items()
        for key in session.keys(sections.column_section(name), blocks)
    ]
    if needed:
        yield needed
    return rows.rows(lambda name, block: session.get(sections.column_section(name), block))


def _worth_zones(session: ShardSession, name: str) -> bool:
    """Return whether a column is better looked at through its summary than read whole."""
    shard, section = session.shard, sections.column_section(name)
    large = shard.entry.sections[section].length > sections.WHOLE_COLUMN_BYTES
    return large and shard.has_zones(name) and bool(session.missing([session.key(section)]))
