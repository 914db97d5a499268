"""What ingest's tests share: rows, a dict model, an honest little shard, and a store that fails on cue."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from vstore.catalog import Catalog
from vstore.errors import StoreUnavailable
from vstore.format.columns import column_from_values, column_values, null_column
from vstore.format.log_record import LogRecord, UpsertBatch, decode_log_record, encode_log_record
from vstore.format.manifest import Extent, Manifest, ShardEntry
from vstore.format.rows import RowBatch
from vstore.ingest.reader import load_view
from vstore.ingest.view import CollectionView
from vstore.ingest.writer import Writer
from vstore.settings import IndexSettings, Settings
from vstore.shard.sections import column_section
from vstore.storage.base import ByteRange, ObjectInfo, ObjectStore
from vstore.storage.memory import MemoryStore
from vstore.types import Key, Schema

DIM = 4
SCHEMA = Schema(dim=DIM, metric="l2", fields={"year": "int", "topic": "str"})

Row = tuple[Any, ...]
"""A row of the model: vector, year, topic, document; and, where it has any, the values of other fields."""
Model = dict[Key, Row]


def rows_of(keys: Sequence[Key], stamp: int = 0) -> RowBatch:
    """Rows whose every value follows from the key and the stamp."""
    numbers = [hash_of(key) for key in keys]
    vectors = np.array([[n, stamp, n % 7, 1] for n in numbers], np.float32).reshape(len(keys), DIM)
    years = [None if n % 5 == 0 else 2000 + stamp for n in numbers]
    topics = [None if n % 3 == 0 else f"t{n % 4}-{stamp}" for n in numbers]
    documents = [
        {"text": f"{key} at {stamp}"} if n % 2 else None for key, n in zip(keys, numbers, strict=True)
    ]
    is_str = bool(keys) and isinstance(keys[0], str)
    return RowBatch(
        tuple(str(key) for key in keys) if is_str else np.array(keys, np.int64),
        "str" if is_str else "int",
        vectors,
        {
            "year": column_from_values("int", years, field="year"),
            "topic": column_from_values("str", topics, field="topic"),
        },
        documents if any(documents) else None,
    )


def hash_of(key: Key) -> int:
    return key if isinstance(key, int) else sum(map(ord, key))


def model_of(rows: RowBatch) -> Model:
    """The rows as a dict; of a key that comes twice, the last."""
    years, topics = column_values(rows.columns["year"]), column_values(rows.columns["topic"])
    documents = rows.documents if rows.documents is not None else [None] * rows.n
    keys = rows.keys.tolist() if isinstance(rows.keys, np.ndarray) else list(rows.keys)
    others = {name: column_values(rows.columns[name]) for name in sorted(rows.columns.keys() - SCHEMA.fields)}
    found: Model = {}
    for i, (key, vector) in enumerate(zip(keys, rows.vectors.tolist(), strict=True)):
        row = (tuple(vector), years[i], topics[i], documents[i])
        values = tuple((name, column[i]) for name, column in others.items() if column[i] is not None)
        found[key] = (*row, values) if values else row
    return found


def contents(view: CollectionView[Any]) -> Model:
    """Every live row of a view; a key that is alive twice fails."""
    found: Model = {}
    parts = [shard.shard.rows(shard.live_ids()) for shard in view.shards if shard.n_live]
    parts += [chunk.live_rows() for chunk in view.memtable.chunks]
    for part in parts:
        rows = model_of(part)
        assert len(rows) == part.n
        assert not found.keys() & rows.keys(), "a key is alive in two places"
        found.update(rows)
    assert len(found) == view.n_live
    return found


class FakeShard:
    """Rows in a shuffled order, found through a dict."""

    def __init__(self, entry: ShardEntry, batch: RowBatch) -> None:
        self.entry = entry
        self._batch = batch
        keys = batch.keys.tolist() if isinstance(batch.keys, np.ndarray) else batch.keys
        self._nodes = {key: node for node, key in enumerate(keys)}
        self.n_lookups = 0

    @property
    def n(self) -> int:
        return self._batch.n

    def lookup(self, keys: Any) -> Any:
        self.n_lookups += 1
        plain = keys.tolist() if isinstance(keys, np.ndarray) else keys
        return np.array([self._nodes.get(key, -1) for key in plain], np.int64)

    def old_graph(self, live_ids: Any, M: int) -> None:
        return None

    def rows(self, node_ids: Any) -> RowBatch:
        from vstore.ingest.batches import take_rows

        return take_rows(self._batch, node_ids)


def build_shard(
    rows: RowBatch,
    schema: Schema,
    index: IndexSettings,
    *,
    shard_id: str,
    key: str,
    progress: Any = None,
    old: Any = None,
) -> tuple[ShardEntry, bytes]:
    from vstore.ingest.batches import take_rows

    assert 0 < rows.n <= index.shard_rows
    assert rows.vectors.flags.c_contiguous
    order = np.random.default_rng(rows.n).permutation(rows.n)
    record = LogRecord(0, 1, shard_id, "write", (UpsertBatch(take_rows(rows, order)),))
    data = encode_log_record(record)
    if progress is not None:
        progress(rows.n, rows.n)
    extent = Extent(0, len(data))
    sections = {column_section(name): extent for name in schema.fields}
    return ShardEntry(shard_id, key, len(data), rows.n, extent, sections), data


def shard_opener(store: ObjectStore) -> Callable[[ShardEntry, Manifest], FakeShard]:
    def open_shard(entry: ShardEntry, manifest: Manifest) -> FakeShard:
        batch = decode_log_record(store.get(entry.key), entry.key).batches[0]
        assert isinstance(batch, UpsertBatch)
        rows = batch.rows
        assert rows.n == entry.n_rows
        # As in a real shard: a field without a section is null, whatever its bytes hold of that name.
        columns = {
            name: rows.columns[name] if column_section(name) in entry.sections else null_column(kind, rows.n)
            for name, kind in manifest.schema.fields.items()
        }
        return FakeShard(entry, replace(rows, columns=columns))

    return open_shard


class FailingStore:
    """Passes calls on, and fails the n-th: before it takes effect, or after it (the answer is lost).

    With `dead` every call after the n-th fails too, as when the process died.
    """

    def __init__(self, store: ObjectStore, n: int = -1, *, after: bool = False, dead: bool = False) -> None:
        self.store = store
        self.url = store.url
        self.n = n
        self.after = after
        self.dead = dead
        self.n_calls = 0

    def _call(self, act: Callable[[], Any]) -> Any:
        number = self.n_calls
        self.n_calls += 1
        failing = number == self.n
        if (failing and not self.after) or (self.dead and 0 <= self.n < number):
            raise StoreUnavailable(f"call {number} failed on cue")
        result = act()
        if failing:
            raise StoreUnavailable(f"the answer of call {number} was lost on cue")
        return result

    def get(self, key: str, start: int = 0, length: int | None = None) -> bytes:
        return self._call(lambda: self.store.get(key, start, length))

    def get_many(self, ranges: Sequence[ByteRange]) -> list[bytes]:
        return self._call(lambda: self.store.get_many(ranges))

    def put(self, key: str, data: bytes) -> None:
        self._call(lambda: self.store.put(key, data))

    def put_if_absent(self, key: str, data: bytes) -> None:
        self._call(lambda: self.store.put_if_absent(key, data))

    def head(self, key: str) -> ObjectInfo | None:
        return self._call(lambda: self.store.head(key))

    def list(self, prefix: str = "") -> list[ObjectInfo]:
        return self._call(lambda: self.store.list(prefix))

    def delete(self, keys: Sequence[str]) -> None:
        self._call(lambda: self.store.delete(keys))

    def close(self) -> None:
        self.store.close()


@dataclass
class Place:
    """A store with one collection, "c", and a clock that tests move."""

    store: ObjectStore = field(default_factory=MemoryStore)
    index: IndexSettings = field(default_factory=lambda: IndexSettings(shard_rows=1_000))
    settings: dict[str, Any] = field(default_factory=dict)
    now: float = 1_000.0
    ids: Iterator[int] = field(default_factory=lambda: itertools.count(1))

    def __post_init__(self) -> None:
        create_collection(self.store, self.index, self.new_id, self.clock)

    def clock(self) -> float:
        self.now += 0.001
        return self.now

    def new_id(self) -> str:
        return f"{next(self.ids):032x}"

    def writer(
        self, store: ObjectStore | None = None, build: Any = None, background: Any = None, **settings: Any
    ) -> Writer[FakeShard]:
        store = store or self.store
        return Writer.acquire(
            Catalog(store),
            "c",
            Settings(clock=self.clock, n_threads=1, io_concurrency=1, **{**self.settings, **settings}),
            open_shard=shard_opener(store),
            build_shard=build or build_shard,
            new_id=self.new_id,
            background=background,
        )

    def view(self, store: ObjectStore | None = None, previous: Any = None) -> CollectionView[FakeShard]:
        store = store or self.store
        settings = Settings(clock=self.clock, n_threads=1, io_concurrency=1)
        return load_view(Catalog(store), "c", settings, open_shard=shard_opener(store), previous=previous)

    def contents(self) -> Model:
        return contents(self.view())


def create_collection(
    store: ObjectStore, index: IndexSettings, new_id: Callable[[], str], clock: Callable[[], float]
) -> None:
    Catalog(store).create(
        Manifest(
            version=1,
            collection_id=new_id(),
            name="c",
            schema=SCHEMA,
            index=index,
            writer_epoch=0,
            log_start=1,
            created_at=clock(),
            write_id=new_id(),
        )
    )
