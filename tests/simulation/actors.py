"""Who acts in a history: writers that take collections from each other, readers, collectors of garbage."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from faults import Crash, SimStore
from ingest_fakes import FakeShard, build_shard, contents, model_of, shard_opener
from sim import N_KEYS, NAMES, Simulation, rows_with_year
from world import Intent, where

from vstore.catalog import Catalog, garbage
from vstore.catalog.pins import (
    CLOCK_SKEW_S,
    Lease,
    delete_tag,
    find_snapshot,
    list_snapshots,
    read_pins,
)
from vstore.errors import (
    Closed,
    CollectionExists,
    CollectionNotFound,
    FieldTypeError,
    InvalidInput,
    SnapshotNotFound,
    StorageError,
    UnknownField,
    WriterFenced,
)
from vstore.format.manifest import Manifest
from vstore.format.rows import RowBatch
from vstore.ingest.reader import load_view, open_snapshot
from vstore.ingest.update import as_changes, updated_rows
from vstore.ingest.view import CollectionView
from vstore.ingest.writer import WAIT_FULLNESS, Writer
from vstore.types import Schema

PASSING = (StorageError, WriterFenced, Closed, CollectionExists, CollectionNotFound, SnapshotNotFound)
"""What an actor may meet without having done anything wrong."""
REFUSED = (InvalidInput, UnknownField, FieldTypeError)
"""What a writer may be told whose collection changed meanwhile."""


@dataclass(frozen=True)
class Opened:
    """A snapshot that an actor reads under a lease."""

    manifest: Manifest
    lease: Lease


class Actors(Simulation):
    """One history with all its actors. `run` plays it and checks it."""

    def __init__(self, seed: int, n_steps: int = 40) -> None:
        super().__init__(seed, n_steps)
        self.writers: dict[str, Writer[FakeShard]] = {}
        self.readers: dict[str, CollectionView[FakeShard]] = {}
        self.snapshots: dict[str, Opened] = {}
        self.tags: dict[tuple[str, str], Manifest] = {}
        self.stamp = 0
        self.n_acknowledged = 0

    def run(self) -> None:
        for name in NAMES[: int(self.rng.integers(1, 3))]:
            self.create(name, Catalog(self.world))
        self.faulty = True
        for _ in range(self.n_steps):
            self.step()
        self.finish()

    def world_store(self, name: str) -> Any:
        return SimStore(self, name)

    def acts(self) -> list[Callable[[], None]]:
        """What may happen next, each as often as it is likely."""
        return (
            [self.write] * 16
            + [self.upkeep] * 6
            + [self.read] * 6
            + [self.open_writer, self.collect, self.wait, self.tag, self.snapshot, self.read_snapshot] * 2
            + [self.untag, self.restore, self.drop_or_create]
        )

    def step(self) -> None:
        self.depth += 1
        try:
            self.pick(self.acts())()
        finally:
            self.depth -= 1

    def attempt(self, name: str, act: Callable[[Any], Any]) -> Any:
        """Run an actor's act on a store of its own; a crash is the end of the actor. None where it failed."""
        store = self.world_store(name)
        self.busy.append(name)
        self.stale.discard(name)
        try:
            return act(store)
        except PASSING as error:
            self.note(f"{name} failed: {type(error).__name__}")
        except Crash:
            self.crashed(name)
        finally:
            self.busy.remove(name)
        return None

    def crashed(self, name: str) -> None:
        self.note(f"{name} crashed")
        self.writers.pop(name, None)
        self.readers.pop(name, None)
        self.snapshots.pop(name, None)

    def some(self, kind: str) -> tuple[str, str]:
        """An actor of that kind, and its collection."""
        name = self.pick(sorted(self.world.current))
        return f"{kind}{int(self.rng.integers(3))}-{name}", name

    # Writers.

    def open_writer(self) -> None:
        actor, name = self.some("w")
        if actor in self.busy:
            return
        self.writers.pop(actor, None)
        before = self.position(name)
        writer = self.attempt(actor, lambda store: self.acquire(store, name))
        if writer is not None:
            self.check_view(writer.view(), before)
            self.writers[actor] = writer

    def acquire(self, store: Any, name: str) -> Writer[FakeShard]:
        return Writer.acquire(
            Catalog(store),
            name,
            self.settings(),
            open_shard=shard_opener(store),
            build_shard=build_shard,
            new_id=self.new_id,
        )

    def pick_writer(self) -> tuple[str, Writer[FakeShard]] | None:
        """A writer that is in the middle of no write or restore, and of no flush that writes wait for."""

        def waits(writer: Writer[FakeShard]) -> bool:
            if writer._upkeep.locked() and (writer._change_unsettled or writer._fullness() >= WAIT_FULLNESS):
                return True
            return writer._lock.locked()

        free = [(name, writer) for name, writer in self.writers.items() if not waits(writer)]
        return self.pick(free) if free else None

    def pick_idle_writer(self) -> tuple[str, Writer[FakeShard]] | None:
        picked = self.pick_writer()
        return None if picked is None or picked[1]._upkeep.locked() else picked

    def as_writer(self, actor: str, act: Callable[[], Any]) -> Any:
        """Run an act of an open writer, whose store it keeps."""
        self.busy.append(actor)
        try:
            return act()
        except (*PASSING, *REFUSED) as error:
            self.note(f"{actor} failed: {type(error).__name__}")
        except Crash:
            self.crashed(actor)
        finally:
            self.busy.remove(actor)
        return None

    def write(self) -> None:
        picked = self.pick_writer()
        if picked is None:
            self.open_writer()
            return
        actor, writer = picked
        keys = np.unique(self.rng.integers(0, N_KEYS, int(self.rng.integers(1, 12))))
        self.stamp += 1
        kind = str(self.rng.choice(["upsert"] * 5 + ["delete", "delete", "where", "update", "update"]))
        intent, act = self.prepared(kind, writer, keys)
        history = self.history_of(writer.view())
        dropped, n_moments = history.dropped, len(history.moments)
        self.intents[actor] = intent
        try:
            done = self.as_writer(actor, act)
        finally:
            self.intents.pop(actor, None)
        self.note(f"{actor} wrote {done}")
        if done is not None:
            self.n_acknowledged += 1
            assert not dropped, f"{kind} was acknowledged after the collection was dropped"
            if intent.before is not None:
                assert done == intent.expected(), f"{kind} returned {done}, not {intent.expected()}"
            else:
                assert done == 0, f"{kind} {self.stamp} was acknowledged and is not in the log"
                moments = history.moments[n_moments - 1 :]
                assert any(intent.idle(moment) for moment in moments), f"{kind} did nothing, and had to"
        self.check_view(writer.view())

    def prepared(self, kind: str, writer: Writer[FakeShard], keys: Any) -> tuple[Intent, Callable[[], int]]:
        """A write of that kind: what it is to do, and the call that does it."""
        year = 2000 + self.stamp % 7
        asked = frozenset(keys.tolist())
        if kind == "upsert":
            rows = self.rows(keys.tolist(), year, writer.view().schema)
            return Intent(kind, rows=model_of(rows)), lambda: writer.upsert(rows)
        if kind == "delete":
            return Intent(kind, keys=asked), lambda: writer.delete(keys)
        if kind == "where":

            def select(view: CollectionView[FakeShard]) -> Any:
                return np.array(sorted(where(contents(view), year)), np.int64)

            return Intent(kind, year=year), lambda: writer.delete_where(select)
        changes = as_changes({"year": [year] * len(keys)}, writer.view().schema, len(keys))
        return (
            Intent(kind, keys=asked, year=year),
            lambda: writer.update(lambda view: updated_rows(view, keys, changes, "ignore")),
        )

    def rows(self, keys: list[int], year: int, schema: Schema) -> RowBatch:
        """Rows to upsert."""
        return rows_with_year(keys, self.stamp, year)

    def upkeep(self) -> None:
        picked = self.pick_idle_writer()
        if picked is None:
            return
        actor, writer = picked
        act = str(self.rng.choice(["flush", "flush", "compact", "maintain", "collect"]))
        self.note(f"{actor} {act}")
        self.as_writer(actor, getattr(writer, act))
        self.check_view(writer.view())

    def restore(self) -> None:
        """As `Collection.restore`: the snapshot is open under a lease until the version is published."""
        picked = self.pick_idle_writer()
        if picked is None:
            return
        actor, writer = picked
        catalog, name = writer._catalog, writer.view().manifest.name
        at = self.some_version(name)

        def act() -> int:
            manifest = find_snapshot(catalog, name, at)
            tag = at if isinstance(at, str) else None
            lease = Lease(catalog, manifest, self.settings(), self.new_id(), tag=tag)
            view = open_snapshot(catalog, manifest, self.settings(), open_shard=shard_opener(catalog.store))
            version = writer.restore(view, lease)
            lease.release()
            return version

        version = self.as_writer(actor, act)
        self.note(f"{actor} restored {at}: {version}")
        if version is not None:
            assert version in self.history_of(writer.view()).manifests
        self.check_view(writer.view())

    def some_version(self, name: str) -> int | str:
        tags = sorted(tag for tagged, tag in self.tags if tagged == name)
        if tags and self.rng.random() < 0.5:
            return str(self.pick(tags))
        versions = Catalog(self.world).versions(name)
        return int(self.pick(versions))

    def drop_or_create(self) -> None:
        actor, name = self.some("w")
        if actor in self.busy or self.rng.random() < 0.5:
            return
        history = self.world.current[name]
        if history.dropped:
            self.attempt(actor, lambda store: self.create(name, Catalog(store)))
            return
        self.writers.pop(actor, None)

        def act(store: Any) -> bool:
            view = self.acquire(store, name).view()
            self.forget_tags(name)
            Catalog(store).drop(name, self.clock(), view.fences, epoch=view.manifest.writer_epoch)
            return True

        if self.attempt(actor, act):
            assert history.dropped

    # Readers.

    def read(self) -> None:
        actor, name = self.some("r")
        if actor in self.busy:
            return
        previous = self.readers.get(actor) if self.rng.random() < 0.7 else None
        before, dropped = self.position(name), self.world.current[name].dropped
        view = self.attempt(actor, lambda store: self.load(store, name, previous))
        if view is not None:
            self.check_view(view, None if actor in self.stale else before)
            if previous is not None and previous.manifest.collection_id == view.manifest.collection_id:
                assert view.manifest.version >= previous.manifest.version, "a reader went back"
            if dropped and actor not in self.stale:
                assert view.manifest.collection_id != before[0], "a dropped collection was opened"
            self.readers[actor] = view

    def load(self, store: Any, name: str, previous: Any) -> CollectionView[FakeShard]:
        return load_view(
            Catalog(store), name, self.settings(), open_shard=shard_opener(store), previous=previous
        )

    # Garbage, tags, snapshots.

    def collect(self) -> None:
        actor, name = self.some("gc")
        dry_run = bool(self.rng.random() < 0.2)

        def act(store: Any) -> Any:
            before = set(self.world._objects)
            found = garbage.collect(Catalog(store), name, self.retention_s, self.clock, dry_run=dry_run)
            self.note(f"{actor} collected {len(found.manifests)} {len(found.data)}")
            return before, found

        if actor not in self.busy:
            self.attempt(actor, act)

    def tag(self) -> None:
        picked = self.pick_idle_writer()
        if picked is None:
            return
        actor, writer = picked
        name, tag = writer.view().manifest.name, f"t{next(self.ids)}"
        history = self.history_of(writer.view())
        n_moments = len(history.moments)
        version = self.as_writer(actor, lambda: writer.tag(tag))
        self.note(f"{actor} tagged {version} {tag}")
        if version is not None:
            manifest = history.manifests[version]
            tagged = history.state(version, manifest.log_start)
            assert tagged in history.moments[n_moments - 1 :], "a tag keeps what was there before the call"
            if not history.dropped:
                self.tags[name, tag] = manifest

    def untag(self) -> None:
        actor, name = self.some("t")
        tags = sorted(tag for tagged, tag in self.tags if tagged == name)
        if not tags or actor in self.busy:
            return
        tag = str(self.pick(tags))
        self.tags.pop((name, tag))
        self.attempt(actor, lambda store: delete_tag(Catalog(store), name, tag))

    def forget_tags(self, name: str) -> None:
        for key in [key for key in self.tags if key[0] == name]:
            self.tags.pop(key)

    def snapshot(self) -> None:
        """Open a version, a time or a tag, and keep it open."""
        actor, name = self.some("s")
        if actor in self.busy:
            return
        at: Any = self.some_version(name)
        if self.rng.random() < 0.2:
            at = self.now - float(self.rng.choice([0.0, 5.0, 500.0]))
        self.snapshots.pop(actor, None)

        def act(store: Any) -> Opened:
            catalog = Catalog(store)
            manifest = find_snapshot(catalog, name, at)
            tag = at if isinstance(at, str) else None
            return Opened(manifest, Lease(catalog, manifest, self.settings(), self.new_id(), tag=tag))

        opened = self.attempt(actor, act)
        if opened is not None:
            self.snapshots[actor] = opened
            self.check_snapshot(opened)

    def read_snapshot(self) -> None:
        free = [actor for actor in self.snapshots if actor not in self.busy]
        if not free:
            return
        actor = str(self.pick(sorted(free)))
        opened = self.snapshots[actor]
        self.check_snapshot(opened)
        if self.rng.random() < 0.5:
            self.as_writer(actor, opened.lease.renew)
        else:
            self.as_writer(actor, opened.lease.release)
            self.snapshots.pop(actor, None)

    def check_snapshot(self, opened: Opened) -> None:
        """While its lease holds, all that the snapshot names is there."""
        history = self.world.histories[opened.manifest.collection_id]
        pins = read_pins(Catalog(self.world), history.name, history.collection_id)
        _, end = pins.leases.get(opened.lease._key, (None, 0.0))
        if not history.dropped and end + CLOCK_SKEW_S >= self.peak:
            self.check_manifest(opened.manifest)

    def check_manifest(self, manifest: Manifest) -> None:
        """All that the manifest names is there, and is what the log held where the manifest begins it."""
        history = self.world.histories[manifest.collection_id]
        known = history.manifests[manifest.version]
        assert manifest == known, f"version {manifest.version} is another one"
        view = open_snapshot(
            Catalog(self.world), manifest, self.settings(), open_shard=shard_opener(self.world)
        )
        expected = history.state(manifest.version, manifest.log_start)
        assert contents(view) == expected, f"version {manifest.version} is wrong"

    def wait(self) -> None:
        self.pass_time(float(self.rng.choice([1.0, 100.0, 10_000.0])))

    # The end.

    def finish(self) -> None:
        """Without faults: everything is there, can be written, compacted and collected."""
        self.faulty = False
        while self.late:
            self.land_late()
        for opened in self.snapshots.values():
            self.check_snapshot(opened)
        for view in [*self.readers.values(), *(writer.view() for writer in self.writers.values())]:
            self.check_view(view)
        for name in sorted(self.world.current):
            if self.world.current[name].dropped:
                self.create(name, Catalog(self.world))
            self.finish_collection(name)
        assert Catalog(self.world).collections() == sorted(self.world.current)

    def finish_collection(self, name: str) -> None:
        store = self.world_store("end")
        self.check_view(self.load(store, name, None), self.position(name))
        writer = self.acquire(store, name)
        self.check_view(writer.view(), self.position(name))
        self.stamp += 1
        writer.upsert(rows_with_year([1, 2], self.stamp, 2000))
        writer.compact()
        self.check_view(writer.view(), self.position(name))
        self.check_view(self.load(store, name, None), self.position(name))
        self.check_manifest(writer.view().manifest)
        for tagged, tag in sorted(self.tags):
            if tagged == name:
                self.check_manifest(find_snapshot(Catalog(self.world), name, tag))
        for found in list_snapshots(Catalog(self.world), name):
            if not found.tags:
                self.check_manifest(find_snapshot(Catalog(self.world), name, found.version))
        self.check_nothing_is_left(name, writer.view().manifest)

    def check_nothing_is_left(self, name: str, latest: Manifest) -> None:
        """Every shard and bitmap of the store is named by what is kept, and so is the log."""
        catalog = Catalog(self.world)
        kept = [m for m in catalog.history(name) if m.collection_id == latest.collection_id]
        # A lease whose maker failed may name what is gone: it keeps nothing, and ends by itself.
        pins = read_pins(catalog, name, latest.collection_id).manifests(self.now)
        mine = f"data/{name}/{latest.collection_id}/"
        stored = [info.key for info in self.world.list(f"data/{name}/")]
        data = {key for key in stored if key.startswith((f"{mine}shards/", f"{mine}dead/"))}
        assert named_by(kept) <= data <= named_by([*kept, *pins]), "orphans stay, or data is missing"
        others = [key for key in stored if not key.startswith(mine) and "/log/" not in key]
        assert not others, f"a dropped collection left {others[:3]}"


def named_by(manifests: list[Manifest]) -> set[str]:
    """The keys of the shards and dead rows that manifests name."""
    entries = [entry for manifest in manifests for entry in manifest.shards]
    return {entry.key for entry in entries} | {entry.dead_key for entry in entries if entry.dead_key}
