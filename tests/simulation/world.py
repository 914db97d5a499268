"""What really happened: the objects that exist, and what they say each collection held at every moment.

The oracle is the log. The moment at which a log record's object appears decides what the collection holds
from then on; a manifest decides which base the log stands on (another one only where it restores a version).
So `History.state(version, seq)` is a dict, and whatever view anybody gets must equal the one of its own
numbers.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from typing import Any

from ingest_fakes import Model, model_of

from vstore.catalog.invariants import RESTORED
from vstore.catalog.layout import number_of
from vstore.format.log_record import LogRecord, UpsertBatch, decode_log_record
from vstore.format.manifest import Manifest
from vstore.format.manifest_codec import decode_manifest
from vstore.storage.base import ObjectInfo
from vstore.storage.memory import MemoryStore

N_LISTINGS = 6
"""A stale listing shows what was there at most so many changes ago."""


@dataclass(eq=False)
class Intent:
    """What a write was asked to do; `before` is the state that its record met, once it has landed."""

    kind: str
    rows: Model = field(default_factory=dict)
    keys: frozenset[int] = frozenset()
    year: int | None = None
    before: Model | None = None

    def check(self, record: LogRecord, before: Model) -> None:
        """Compare what was logged with what was asked for."""
        (batch,) = record.batches
        self.before = before
        if isinstance(batch, UpsertBatch):
            logged = model_of(batch.rows)
            if self.kind == "update":
                self.rows = {key: with_year(before[key], self.year) for key in self.keys if key in before}
            assert logged == self.rows, f"{self.kind} logged other rows than it was to write"
            return
        asked = self.keys if self.kind == "delete" else where(before, self.year)
        assert frozenset(batch.keys.tolist()) == asked, f"{self.kind} logged other keys than it was to delete"

    def expected(self) -> int:
        """The number that the call returns where its record landed."""
        assert self.before is not None
        if self.kind in ("upsert", "update"):
            return len(self.rows)
        return len((self.keys if self.kind == "delete" else where(self.before, self.year)) & set(self.before))

    def idle(self, state: Model) -> bool:
        """Whether the call has nothing to do in this state."""
        touched = where(state, self.year) if self.kind == "where" else self.keys & set(state)
        return not touched


Written = dict[Any, tuple[Any, int]]
"""Rows as they were written, and the number of the record, or the base, that they came in."""


def where(state: Model, year: int | None) -> frozenset[int]:
    """The keys that a deletion by filter finds."""
    return frozenset(key for key, row in state.items() if row[1] == year)


def with_year(row: Any, year: int | None) -> Any:
    return (row[0], year, *row[2:])


class Chain:
    """States of one base and the log on it: `states[i]` is before record `start + i`.

    Rows are held as they were written, each with the number of its record.
    """

    def __init__(self, start: int, state: Model) -> None:
        self.start = start
        self.states: list[Written] = [{key: (row, start) for key, row in state.items()}]


class History:
    """One collection, by its id, from creation to drop."""

    def __init__(self, manifest: Manifest) -> None:
        self.name, self.collection_id = manifest.name, manifest.collection_id
        self.records: list[LogRecord] = []
        self.chains = [Chain(1, {})]
        self.chain_of = {manifest.version: 0}
        self.manifests = {manifest.version: manifest}
        # By version and field: the record from which on values count.
        self.since = {manifest.version: dict.fromkeys(manifest.schema.fields, 0)}
        self.version = manifest.version
        self.dropped = False
        self.moments: list[Model] = [{}]

    @property
    def seq(self) -> int:
        """The number of the next record."""
        return len(self.records) + 1

    def state(self, version: int, seq: int) -> Model:
        """What the collection held for whoever read this manifest and the log below `seq`."""
        chain = self.chains[self.chain_of[version]]
        while len(chain.states) <= seq - chain.start:
            record = self.records[chain.start + len(chain.states) - 2]
            chain.states.append(applied(chain.states[-1], record))
        since = self.since[version]
        return {key: under(row, at, since) for key, (row, at) in chain.states[seq - chain.start].items()}

    def now(self) -> Model:
        return self.state(self.version, self.seq)

    def landed(self, record: LogRecord, intent: Intent | None) -> bool:
        """Take in a record whose object has appeared; False where nobody will ever read it."""
        if record.seq < self.seq:
            return False  # A put that was lost long ago took a number that was collected.
        assert record.seq == self.seq, f"record {record.seq} landed where {self.seq} was next: a hole"
        if intent is not None and record.batches:
            intent.check(record, self.now())
        self.records.append(record)
        self.moments.append(self.now())
        return True

    def published(self, manifest: Manifest) -> None:
        chain = self.chain_of[self.version]
        note = manifest.properties.get(RESTORED, "")
        if note.endswith(f" as {manifest.version}"):
            source = self.manifests[int(note.split()[0])]
            self.chains.append(Chain(manifest.log_start, self.state(source.version, source.log_start)))
            chain = len(self.chains) - 1
        before = self.since[self.version]
        self.since[manifest.version] = {name: before.get(name, self.seq) for name in manifest.schema.fields}
        self.version = manifest.version
        self.chain_of[manifest.version] = chain
        self.manifests[manifest.version] = manifest
        self.dropped = manifest.dropped
        self.moments.append(self.now())


def applied(state: Written, record: LogRecord) -> Written:
    """The state after a record."""
    model = dict(state)
    for batch in record.batches:
        if isinstance(batch, UpsertBatch):
            model.update({key: (row, record.seq) for key, row in model_of(batch.rows).items()})
        else:
            for dead in batch.keys.tolist():
                model.pop(dead, None)
    return model


def under(row: Any, at: int, since: dict[str, int]) -> Any:
    """A row of record `at` without the values of fields that are gone, or came after it."""
    values = tuple(
        (name, value) for name, value in (row[4] if row[4:] else ()) if at >= since.get(name, at + 1)
    )
    return (*row[:4], values) if values else row[:4]


class World(MemoryStore):
    """The objects, and what became of each collection as they came."""

    def __init__(self) -> None:
        super().__init__("world")
        self.current: dict[str, History] = {}
        self.histories: dict[str, History] = {}
        self.n_zombies = 0
        self._listings: deque[dict[str, int]] = deque([{}], N_LISTINGS)

    def put(self, key: str, data: bytes) -> None:
        super().put(key, data)
        self._changed()

    def delete(self, keys: Any) -> None:
        super().delete(keys)
        self._changed()

    def _changed(self) -> None:
        self._listings.append({key: len(data) for key, data in self._objects.items()})

    def put_if_absent(self, key: str, data: bytes, intent: Intent | None = None) -> None:
        """Create an object, which decides what collections hold."""
        absent = self.head(key) is None
        super().put_if_absent(key, data)
        if not absent:
            return
        self._changed()
        if "/log/" in key:
            history = self.histories[key.split("/")[2]]
            if not history.landed(decode_log_record(data, key), intent):
                self.n_zombies += 1
        elif number_of(key.rpartition("/")[2]) is not None:
            self._published(decode_manifest(data, key))

    def _published(self, manifest: Manifest) -> None:
        history = self.current.get(manifest.name)
        if history is not None and manifest.version != history.version + 1:
            assert manifest.version < history.version, f"version {manifest.version} was published out of turn"
            self.n_zombies += 1
        elif history is None or manifest.collection_id != history.collection_id:
            assert history is None or history.dropped
            self.current[manifest.name] = self.histories[manifest.collection_id] = History(manifest)
        else:
            history.published(manifest)

    def stale_list(self, prefix: str, age: int) -> list[ObjectInfo]:
        """The listing of `age` changes ago."""
        listing = self._listings[max(0, len(self._listings) - 1 - age)]
        found = [ObjectInfo(key, size) for key, size in listing.items() if key.startswith(prefix)]
        return sorted(found, key=lambda info: info.key)
