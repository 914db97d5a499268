"""Random histories of a collection over a store that fails, with many processes interleaved, from one seed.

Everything runs in one thread. At any storage call of one actor others may act, so every interleaving of
processes at storage calls can come about, and the same seed gives the same history.

The oracle is the log: the moment at which a log record's object appears decides what the collection
holds, and `Truth.states[seq]` is a dict of it. Whatever view anybody gets must equal the state of its
own `seq`; a write that was acknowledged must be in the log; who opens must see all that was there before.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from ingest_fakes import (
    FakeShard,
    Model,
    build_shard,
    contents,
    create_collection,
    model_of,
    rows_of,
    shard_opener,
)

from vstore.catalog import Catalog, garbage
from vstore.catalog.pins import Lease, find_snapshot, read_pins
from vstore.errors import Closed, SnapshotNotFound, StorageError, StoreUnavailable, WriterFenced
from vstore.format.log_record import UpsertBatch, decode_log_record
from vstore.format.manifest import Manifest
from vstore.ingest.reader import load_view, open_snapshot
from vstore.ingest.view import CollectionView
from vstore.ingest.writer import Writer
from vstore.settings import IndexSettings, Settings
from vstore.storage.base import ByteRange, ObjectInfo
from vstore.storage.memory import MemoryStore

N_KEYS = 40
MAX_DEPTH = 2


class Crash(BaseException):
    """The process that made this storage call is gone; nothing of vstore may catch it."""


class InlinePool:
    """Stands for a thread pool where everything has to happen in one order."""

    def __init__(self, n_threads: int) -> None:
        self.map = map

    def __enter__(self) -> InlinePool:
        return self

    def __exit__(self, *error: object) -> None:
        pass


class Truth:
    """What the log holds: `states[seq]` is the collection before record `seq`."""

    def __init__(self) -> None:
        self.states: list[Model] = [{}, {}]
        self.stamps: set[int] = set()

    @property
    def seq(self) -> int:
        return len(self.states) - 1

    def landed(self, key: str, data: bytes) -> None:
        record = decode_log_record(data, key)
        if record.seq < self.seq:
            return  # A put that was lost long ago took a number that was collected; nobody reads it.
        assert record.seq == self.seq, f"record {record.seq} landed where {self.seq} was next: a hole"
        model = dict(self.states[-1])
        for batch in record.batches:
            if isinstance(batch, UpsertBatch):
                model.update(model_of(batch.rows))
                self.stamps.add(int(batch.rows.vectors[0, 1]))
            else:
                for dead in batch.keys.tolist():
                    model.pop(dead, None)
        self.states.append(model)


class SimStore:
    """One actor's way to the store: it may fail, lose answers, do the work later, or be the actor's end."""

    def __init__(self, sim: Simulation, name: str) -> None:
        self.sim, self.name = sim, name
        self.url = f"sim://{name}"

    def _call(self, what: str, act: Callable[[], Any], changes: bool) -> Any:
        sim = self.sim
        sim.between_calls(self.name)
        fault = sim.fault(changes)
        sim.trace.append(f"{self.name} {what}{' ' + fault if fault else ''}")
        if fault == "refused":
            raise StoreUnavailable(f"{what}: refused on cue")
        if fault == "crash before":
            raise Crash
        if fault in ("late", "crash late"):
            sim.late.append(act)
        else:
            result = act()
        if fault in ("crash after", "crash late"):
            raise Crash
        if fault in ("lost", "late"):
            raise StoreUnavailable(f"{what}: the answer was lost on cue")
        return result

    def get(self, key: str, start: int = 0, length: int | None = None) -> bytes:
        return self._call(f"get {key}", lambda: self.sim.store.get(key, start, length), False)

    def get_many(self, ranges: Sequence[ByteRange]) -> list[bytes]:
        return [self.get(*asked) for asked in ranges]

    def put(self, key: str, data: bytes) -> None:
        self._call(f"put {key}", lambda: self.sim.store.put(key, data), True)

    def put_if_absent(self, key: str, data: bytes) -> None:
        self._call(f"create {key}", lambda: self.sim.create(key, data), True)

    def head(self, key: str) -> ObjectInfo | None:
        return self._call(f"head {key}", lambda: self.sim.store.head(key), False)

    def list(self, prefix: str = "") -> list[ObjectInfo]:
        return self._call(f"list {prefix}", lambda: self.sim.store.list(prefix), False)

    def delete(self, keys: Sequence[str]) -> None:
        # S3 deletes keys one by one, so a crash may leave some.
        for key in keys:
            self._call(f"delete {key}", lambda key=key: self.sim.store.delete([key]), True)

    def close(self) -> None:
        pass


class Simulation:
    """One history. `run` plays it and checks it; a failure names the seed."""

    def __init__(self, seed: int, n_steps: int = 40) -> None:
        self.rng = np.random.default_rng(seed)
        self.n_steps = n_steps
        self.store = MemoryStore()
        self.truth = Truth()
        self.trace: list[str] = []
        self.late: list[Callable[[], Any]] = []
        self.writers: dict[str, Writer[FakeShard]] = {}
        self.readers: dict[str, CollectionView[FakeShard]] = {}
        self.tags: set[str] = set()
        self.depth = 0
        self.faulty = False
        self.busy: list[str] = []
        self.now = 1_000.0
        self.ids = itertools.count(1)
        self.stamp = 0
        # Some histories are calm, some are stormy; some collect all that is old, some keep an hour.
        self.p_fault = float(self.rng.choice([0.0, 0.01, 0.05]))
        self.p_crash = float(self.rng.choice([0.0, 0.01]))
        self.p_others = float(self.rng.choice([0.0, 0.05, 0.2]))
        self.retention_s = float(self.rng.choice([0.0, 5.0, 3600.0]))

    def run(self) -> None:
        create_collection(self.store, IndexSettings(shard_rows=1_000), self.new_id, self.clock)
        self.faulty = True
        for _ in range(self.n_steps):
            self.step()
        self.finish()

    def clock(self) -> float:
        self.now += float(self.rng.choice([0.001, 0.001, 1.0, -0.5]))
        return self.now

    def new_id(self) -> str:
        return f"{next(self.ids):032x}"

    def settings(self) -> Settings:
        return Settings(
            clock=self.clock, n_threads=1, io_concurrency=1, retention_s=self.retention_s, background=False
        )

    # What the store does.

    def create(self, key: str, data: bytes) -> None:
        absent = self.store.head(key) is None
        self.store.put_if_absent(key, data)
        if absent and "/log/" in key:
            self.truth.landed(key, data)

    def fault(self, changes: bool) -> str:
        if not self.faulty:
            return ""
        roll = self.rng.random()
        if roll < self.p_crash:
            return str(
                self.rng.choice(
                    ["crash before", "crash after", "crash late"] if changes else ["crash before"]
                )
            )
        if roll < self.p_crash + self.p_fault:
            return str(self.rng.choice(["refused", "lost", "late"] if changes else ["refused"]))
        return ""

    def between_calls(self, name: str) -> None:
        """Let late puts land and other actors act, before a storage call of `name`."""
        if not self.faulty:
            return
        while self.late and self.rng.random() < 0.2:
            self.land_late()
        if self.depth < MAX_DEPTH and self.rng.random() < self.p_others:
            self.step()

    def land_late(self) -> None:
        act = self.late.pop(int(self.rng.integers(len(self.late))))
        try:
            act()
            self.trace.append("a late one landed")
        except StorageError as error:
            self.trace.append(f"a late one was refused: {type(error).__name__}")

    # What the actors do.

    def step(self) -> None:
        acts = (
            [self.write] * 8
            + [self.flush] * 3
            + [self.read] * 4
            + [self.open_writer, self.collect, self.wait]
        )
        act = acts[int(self.rng.integers(len(acts)))]
        self.depth += 1
        try:
            act()
        finally:
            self.depth -= 1

    def attempt(self, name: str, act: Callable[[], Any]) -> Any:
        """Run an actor's act; a crash is the end of the actor. Returns None where it failed."""
        self.busy.append(name)
        try:
            return act()
        except (StorageError, WriterFenced, Closed) as error:
            self.trace.append(f"{name} failed: {type(error).__name__}")
        except Crash:
            self.trace.append(f"{name} crashed")
            self.writers.pop(name, None)
            self.readers.pop(name, None)
        finally:
            self.busy.remove(name)
        return None

    def open_writer(self) -> None:
        name = f"w{int(self.rng.integers(3))}"
        if name in self.busy:
            return
        self.writers.pop(name, None)
        before = self.truth.seq
        writer = self.attempt(name, lambda: self.acquire(name))
        if writer is not None:
            self.check_view(writer.view(), before)
            self.writers[name] = writer

    def acquire(self, name: str) -> Writer[FakeShard]:
        store = SimStore(self, name)
        return Writer.acquire(
            Catalog(store),
            "c",
            self.settings(),
            open_shard=shard_opener(store),
            build_shard=build_shard,
            new_id=self.new_id,
        )

    def pick_writer(self) -> tuple[str, Writer[FakeShard]] | None:
        """A writer that is not in the middle of a write (a flush that builds is no obstacle)."""
        free = [(name, writer) for name, writer in self.writers.items() if not writer._lock.locked()]
        return free[int(self.rng.integers(len(free)))] if free else None

    def write(self) -> None:
        picked = self.pick_writer()
        if picked is None:
            self.open_writer()
            return
        name, writer = picked
        keys = self.rng.integers(0, N_KEYS, int(self.rng.integers(1, 12)))
        if self.rng.random() < 0.3:
            done = self.attempt(name, lambda: writer.delete(np.unique(keys)))
        else:
            self.stamp += 1
            stamp = self.stamp
            done = self.attempt(name, lambda: writer.upsert(rows_of(keys.tolist(), stamp)))
            if done is not None:
                assert stamp in self.truth.stamps, f"write {stamp} was acknowledged and is not in the log"
        self.trace.append(f"{name} wrote {done}")
        self.check_view(writer.view())

    def flush(self) -> None:
        picked = self.pick_writer()
        if picked is None or picked[1]._upkeep.locked():
            return
        name, writer = picked
        act = str(self.rng.choice(["flush", "flush", "compact", "maintain", "collect"]))
        self.attempt(name, getattr(writer, act))
        self.check_view(writer.view())

    def read(self) -> None:
        name = f"r{int(self.rng.integers(3))}"
        if name in self.busy:
            return
        previous = self.readers.get(name) if self.rng.random() < 0.7 else None
        before = self.truth.seq
        view = self.attempt(name, lambda: self.load(name, previous))
        if view is not None:
            self.check_view(view, before)
            self.readers[name] = view

    def load(self, name: str, previous: Any) -> CollectionView[FakeShard]:
        store = SimStore(self, name)
        return load_view(
            Catalog(store), "c", self.settings(), open_shard=shard_opener(store), previous=previous
        )

    def collect(self) -> None:
        catalog = Catalog(SimStore(self, "gc"))
        if "gc" not in self.busy:
            self.attempt("gc", lambda: garbage.collect(catalog, "c", self.retention_s, self.clock))

    def tag(self) -> None:
        picked = self.pick_writer()
        if picked is None or picked[1]._upkeep.locked():
            return
        name, writer = picked
        tag = f"t{next(self.ids)}"
        if self.attempt(name, lambda: writer.tag(tag)) is not None:
            self.tags.add(tag)

    def open_snapshot(self) -> None:
        """Open a tag, or a version under a lease, and let garbage collection go on before it is read."""
        name = f"s{int(self.rng.integers(3))}"
        catalog = Catalog(SimStore(self, name))
        if name in self.busy:
            return
        if self.tags and self.rng.random() < 0.5:
            at: str | int = sorted(self.tags)[int(self.rng.integers(len(self.tags)))]
        else:
            versions = Catalog(self.store).versions("c")
            at = versions[int(self.rng.integers(len(versions)))]

        def opened() -> None:
            try:
                manifest = find_snapshot(catalog, "c", at)
                held = isinstance(at, int)
                lease = Lease(catalog, manifest, self.settings(), self.new_id()) if held else None
            except SnapshotNotFound:
                assert isinstance(at, int), f"tag {at} is gone"
                return
            for _ in range(int(self.rng.integers(3))):
                self.flush()
                self.collect()
            try:
                self.check_snapshot(manifest)
            finally:
                if lease is not None:
                    lease.release()

        self.attempt(name, opened)

    def check_snapshot(self, manifest: Manifest) -> None:
        """All that the manifest names is there, and is what the log held where the manifest begins it."""
        view = open_snapshot(
            Catalog(self.store), manifest, self.settings(), open_shard=shard_opener(self.store)
        )
        found = contents(view)
        assert found == self.truth.states[manifest.log_start], f"version {manifest.version} is wrong"

    def wait(self) -> None:
        self.now += float(self.rng.choice([1.0, 100.0, 10_000.0]))

    # What must hold.

    def check_view(self, view: CollectionView[FakeShard], seq: int = 1) -> None:
        assert view.seq >= seq, f"opened at record {view.seq}; record {seq - 1} was there before"
        assert contents(view) == self.truth.states[view.seq], f"the view at record {view.seq} is wrong"

    def finish(self) -> None:
        """Without faults: everything is there, can be written, compacted and collected."""
        self.faulty = False
        while self.late:
            self.land_late()
        for view in [*self.readers.values(), *(writer.view() for writer in self.writers.values())]:
            self.check_view(view)
        self.check_view(self.load("end", None), self.truth.seq)
        writer = self.acquire("end")
        self.check_view(writer.view(), self.truth.seq)
        self.stamp += 1
        writer.upsert(rows_of([1, 2], self.stamp))
        writer.compact()
        self.check_view(writer.view(), self.truth.seq)
        self.check_view(self.load("end", None), self.truth.seq)
        tagged = [find_snapshot(Catalog(self.store), "c", tag) for tag in sorted(self.tags)]
        manifests = [*Catalog(self.store).history("c"), *tagged]
        for manifest in manifests:
            self.check_snapshot(manifest)
        named = {entry.key for manifest in manifests for entry in manifest.shards}
        pins = read_pins(Catalog(self.store), "c", manifests[0].collection_id).manifests(self.now)
        named |= {entry.key for manifest in pins for entry in manifest.shards}
        shards = {info.key for info in self.store.list("data/") if "/shards/" in info.key}
        assert shards == named, "orphans stay, or shards are missing"
