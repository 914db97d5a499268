"""A filter decided by summaries of zones, reading only the blocks that it asks for, equals the whole one."""

from __future__ import annotations

from typing import Any
from unittest import mock

import numpy as np
import pytest
from filter_oracle import FIELDS, SCHEMA, TERMS, Term, as_expression, rows
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from vstore.filters import F, compile_filter
from vstore.filters import zones as filter_zones
from vstore.filters.zones import Summary
from vstore.format import zones as format_zones
from vstore.format.columns import Column, column_from_values, concat_columns, take_column
from vstore.format.zones import HASHED, bloom_blocks, decode_zones, encode_zones, summarize
from vstore.types import Schema

QUIET = settings(deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow])


class Blocks:
    """Columns in blocks of rows; counts the blocks that are read."""

    def __init__(self, columns: dict[str, Column], starts: np.ndarray, block_rows: int) -> None:
        self.columns, self.starts, self.block_rows = columns, starts, block_rows
        self.n = next(iter(columns.values())).n
        self.read: set[tuple[str, int]] = set()

    def summary(self, name: str) -> Summary:
        column = self.columns[name]
        stored = encode_zones(summarize(column, self.starts))
        zones = decode_zones(stored, np.diff(np.append(self.starts, self.n)), "test")
        blooms = None
        if column.type in HASHED:
            blooms = [np.frombuffer(data, np.uint8) for data in bloom_blocks(column, self.block_rows)]
        return Summary(zones, blooms)

    def block(self, name: str, block: int) -> Column:
        self.read.add((name, block))
        start = block * self.block_rows
        index = np.arange(start, min(start + self.block_rows, self.n))
        return take_column(self.columns[name], index)

    def matching(self, filter: Any, whole: tuple[str, ...] = ()) -> np.ndarray:
        here = {name: self.columns[name] for name in whole if name in filter.fields}
        summaries = {name: self.summary(name) for name in filter.fields if name not in here}
        found = filter.by_zones(self.starts, self.n, self.block_rows, here, summaries)
        result = found.rows(self.block)
        wanted = {(name, block) for name, blocks in found.needed().items() for block in blocks}
        assert self.read == wanted
        return result


def zone_starts(n: int, block_rows: int, cluster_rows: int) -> np.ndarray:
    return np.unique(np.concatenate([np.arange(0, n, block_rows), np.arange(0, n, cluster_rows)]))


@settings(QUIET, max_examples=300)
@given(
    term=TERMS,
    data=rows(40),
    block_rows=st.integers(1, 12),
    cluster_rows=st.integers(1, 9),
    whole=st.sets(st.sampled_from(list(FIELDS))),
    distinct=st.sampled_from([0, 3, 256]),
    prefix=st.sampled_from([1, 2, 32]),
    sort=st.sampled_from([None, *FIELDS]),
)
def test_zones_decide_as_rows_do(
    term: Term,
    data: list[dict[str, Any]],
    block_rows: int,
    cluster_rows: int,
    whole: set[str],
    distinct: int,
    prefix: int,
    sort: str | None,
) -> None:
    if not data:
        return
    if sort is not None:
        data = sorted(data, key=lambda row: str(row[sort]))
    columns = {
        name: column_from_values(kind, [row[name] for row in data], name) for name, kind in FIELDS.items()
    }
    filter = compile_filter(as_expression(term), SCHEMA)
    with (
        mock.patch.object(format_zones, "MAX_DISTINCT", distinct),
        mock.patch.object(format_zones, "PREFIX", prefix),
        mock.patch.object(filter_zones, "PREFIX", prefix),
    ):
        blocks = Blocks(columns, zone_starts(len(data), block_rows, cluster_rows), block_rows)
        found = blocks.matching(filter, tuple(whole))
    assert found.tolist() == filter.evaluate(columns, len(data)).tolist(), filter.describe()


def many(n: int = 20_000) -> tuple[dict[str, Column], Schema]:
    rng = np.random.default_rng(5)
    topics = np.array([f"topic-{i % 40:02d}" for i in range(n)])[np.sort(rng.integers(0, n, n))]
    columns = {
        "year": column_from_values("int", np.sort(rng.integers(0, 10_000, n))),
        "user": column_from_values("int", rng.integers(0, 1 << 40, n)),
        "name": column_from_values("str", [f"{value:012d}-name" for value in rng.integers(0, 1 << 40, n)]),
        "topic": column_from_values("str", np.sort(topics).tolist()),
        "price": column_from_values("float", [float(i) if i % 7 else None for i in range(n)]),
    }
    return columns, Schema(2, "l2", {name: column.type for name, column in columns.items()})


@pytest.mark.parametrize(
    ("make", "most"),
    [
        (lambda c: (F.year >= 5000) & (F.year < 5010), 2),
        (lambda c: F.year < 20_000, 0),
        (lambda c: F.topic == "topic-07", 2),
        (lambda c: F.topic == "no such", 0),
        (lambda c: F.topic.startswith("topic"), 0),
        (lambda c: ~F.topic.contains("opic"), 0),
        (lambda c: F.user == int(c["user"].values[777]), 3),
        (lambda c: F.name == c["name"].dictionary[777], 3),
        (lambda c: F.name.isin([c["name"].dictionary[777], "zzz"]), 3),
        (lambda c: F.name > "a", 0),
        (lambda c: (F.year < 10) & (F.user >= 0), 1),
        (lambda c: (F.year < 10) & (F.user >= 1000) & F.price.exists(), 4),
        (lambda c: F.price < 100.0, 1),
    ],
)
def test_a_selective_filter_reads_few_blocks(make, most: int) -> None:
    columns, schema = many()
    blocks = Blocks(columns, zone_starts(20_000, 1024, 300), 1024)
    filter = compile_filter(make(columns), schema)
    assert np.array_equal(blocks.matching(filter), filter.evaluate(columns, 20_000))
    assert len(blocks.read) <= most


def test_a_small_column_spares_blocks_of_a_large_one() -> None:
    columns, schema = many()
    blocks = Blocks(columns, zone_starts(20_000, 1024, 300), 1024)
    filter = compile_filter((F.topic == "topic-03") & (F.user > 1 << 39), schema)
    assert np.array_equal(blocks.matching(filter, ("topic",)), filter.evaluate(columns, 20_000))
    assert 0 < len(blocks.read) <= 2


def test_blocks_make_the_column_again() -> None:
    columns, _ = many(5000)
    for name, column in columns.items():
        blocks = Blocks(columns, zone_starts(5000, 512, 100), 512)
        again = concat_columns([blocks.block(name, block) for block in range(10)])
        assert np.array_equal(again.values, column.values)
        assert again.dictionary == column.dictionary


def test_damaged_summaries_are_refused() -> None:
    from vstore.errors import CorruptData

    column = column_from_values("int", list(range(100)))
    data = encode_zones(summarize(column, np.arange(0, 100, 10)))
    tens = np.full(10, 10)
    assert decode_zones(data, tens, "here").n_present.tolist() == [10] * 10
    for wrong, rows_of in ((data, np.full(9, 10)), (data[:-1], tens), (data, np.full(10, 9)), (b"", tens)):
        with pytest.raises(CorruptData, match="here"):
            decode_zones(wrong, rows_of, "here")
