"""Random histories of collections over a store that fails, with many processes interleaved, from one seed.

Everything runs in one thread. At any storage call of one actor others may act, so every interleaving of
processes at storage calls can come about, and the same seed gives the same history. `world` says what is
right.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
from faults import AROUND, BEFORE, CRASHES, Crash, SimStore
from ingest_fakes import SCHEMA, FakeShard, contents, rows_of
from world import N_LISTINGS, History, World

from vstore.catalog import Catalog
from vstore.errors import StorageError
from vstore.format.manifest import Manifest
from vstore.ingest.view import CollectionView
from vstore.settings import IndexSettings, Settings
from vstore.storage.base import ObjectInfo

N_KEYS = 40
MAX_DEPTH = 2
NAMES = ("a", "b")


class InlinePool:
    """Stands for a thread pool where everything has to happen in one order."""

    def __init__(self, n_threads: int) -> None:
        self.map = map

    def __enter__(self) -> InlinePool:
        return self

    def __exit__(self, *error: object) -> None:
        pass


class Simulation:
    """One history: the store, time, faults and chance. `actors.Actors` says who does what."""

    def __init__(self, seed: int, n_steps: int = 40) -> None:
        self.seed = seed
        self.rng = np.random.default_rng(seed)
        self.n_steps = n_steps
        self.world = World()
        self.trace: list[str] = []
        self.late: list[Callable[[], Any]] = []
        self.intents: dict[str, Any] = {}
        self.busy: list[str] = []
        self.stale: set[str] = set()
        self.depth = 0
        self.faulty = False
        self.now = self.peak = 1_000.0
        self.ids = itertools.count(1)
        # Some histories are calm, some are stormy; some collect all that is old, some keep an hour.
        self.p_fault = float(self.rng.choice([0.0, 0.01, 0.05]))
        self.p_crash = float(self.rng.choice([0.0, 0.01]))
        self.p_stale = float(self.rng.choice([0.0, 0.0, 0.05]))
        self.p_land = float(self.rng.choice([0.2, 0.01]))
        self.p_others = float(self.rng.choice([0.0, 0.05, 0.2]))
        self.retention_s = float(self.rng.choice([0.0, 5.0, 3600.0]))
        self.memtable_rows = int(self.rng.choice([25, 50_000]))

    # Time and chance.

    def clock(self) -> float:
        self.pass_time(float(self.rng.choice([0.001, 0.001, 1.0, -0.5])))
        return self.now

    def pass_time(self, seconds: float) -> None:
        self.now += seconds
        self.peak = max(self.peak, self.now)

    def pick(self, options: Any) -> Any:
        return options[int(self.rng.integers(len(options)))]

    def new_id(self) -> str:
        return f"{next(self.ids):032x}"

    def note(self, line: str) -> None:
        self.trace.append(line)

    def settings(self) -> Settings:
        return Settings(
            clock=self.clock,
            n_threads=1,
            io_concurrency=1,
            retention_s=self.retention_s,
            memtable_rows=self.memtable_rows,
            background=False,
        )

    # What the store does.

    def fault(self, changes: bool) -> str:
        if not self.faulty:
            return ""
        roll = self.rng.random()
        if roll < self.p_crash:
            return str(self.rng.choice(CRASHES if changes else CRASHES[:1]))
        if roll < self.p_crash + self.p_fault:
            return str(self.rng.choice(AROUND if changes else BEFORE))
        if roll > 1 - self.p_fault / 4:
            # A slow answer: leases end, and what is young grows old.
            self.pass_time(float(self.rng.choice([30.0, 900.0])))
            return "slow"
        return ""

    def torn(self) -> bool:
        return self.faulty and self.rng.random() < self.p_fault / 2

    def listing(self, name: str, prefix: str) -> list[ObjectInfo]:
        if self.faulty and self.rng.random() < self.p_stale:
            self.stale.add(name)
            self.note(f"{name} sees a stale listing")
            return self.world.stale_list(prefix, int(self.rng.integers(1, N_LISTINGS)))
        return self.world.list(prefix)

    def between_calls(self, name: str) -> None:
        """Let late puts land and other actors act, before a storage call of `name`."""
        if not self.faulty:
            return
        while self.late and self.rng.random() < self.p_land:
            self.land_late()
        if self.depth < MAX_DEPTH and self.rng.random() < self.p_others:
            self.step()

    def land_late(self) -> None:
        act = self.late.pop(int(self.rng.integers(len(self.late))))
        try:
            act()
            self.note("a late one landed")
        except StorageError as error:
            self.note(f"a late one was refused: {type(error).__name__}")

    def step(self) -> None:
        """Let somebody act."""
        raise NotImplementedError

    # What must hold.

    def history_of(self, view: CollectionView[FakeShard]) -> History:
        return self.world.histories[view.manifest.collection_id]

    def check_view(self, view: CollectionView[FakeShard], since: tuple[str, int, int] | None = None) -> None:
        """What a view holds is what the log held at its own numbers, and nothing older than `since`."""
        history = self.history_of(view)
        version = view.manifest.version
        assert history.manifests[version].write_id == view.manifest.write_id, f"version {version} never was"
        assert contents(view) == history.state(version, view.seq), (
            f"the view of version {version} at record {view.seq} is wrong"
        )
        if since is not None and since[0] == history.collection_id:
            assert (version, view.seq) >= since[1:] or (version >= since[1] and view.seq >= since[2]), (
                f"opened version {version} at record {view.seq}; {since[1]} and {since[2]} were there before"
            )

    def position(self, name: str) -> tuple[str, int, int]:
        """What whoever opens the collection now must see at least: (collection id, version, record)."""
        history = self.world.current[name]
        return history.collection_id, history.version, history.seq

    def create(self, name: str, catalog: Catalog) -> None:
        catalog.create(
            Manifest(
                version=1,
                collection_id=self.new_id(),
                name=name,
                schema=SCHEMA,
                index=IndexSettings(shard_rows=1_000),
                writer_epoch=0,
                log_start=1,
                created_at=self.clock(),
                write_id=self.new_id(),
            )
        )


def rows_with_year(keys: list[int], stamp: int, year: int) -> Any:
    """Rows of distinct values, all of one year so that a filter finds them again."""
    from vstore.format.columns import column_from_values

    rows = rows_of(keys, stamp)
    columns = {**rows.columns, "year": column_from_values("int", [year] * rows.n, field="year")}
    return replace(rows, columns=columns)


__all__ = ["Crash", "InlinePool", "SimStore", "Simulation", "rows_with_year"]
