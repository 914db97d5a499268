"""Real processes on a folder and on real buckets: killed at random moments, and racing for one collection.

VSTORE_KILLS says how many kills each; 3 are the default, 200 the nightly run's (-s prints what was counted).
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from race_child import ROWS, UPDATED

import vstore
from vstore.catalog import layout
from vstore.ingest.wal import replay

N_KILLS = int(os.environ.get("VSTORE_KILLS", "3"))
CHILD = Path(__file__).parent / "race_child.py"
ROOT = CHILD.parent.parent.parent
ENV = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "kernels")])}


SERVERS = {"seaweedfs": "s3", "ceph": "ceph"}


@pytest.fixture(params=["folder", *(pytest.param(name, marks=pytest.mark.s3) for name in SERVERS)])
def place(request, tmp_path):
    """A store with an empty collection "c": its uri and the options of `connect`."""
    if request.param == "folder":
        uri, options = str(tmp_path / "store"), {}
    else:
        kind = SERVERS[request.param]
        uri, options = request.getfixturevalue(f"{kind}_url"), request.getfixturevalue(f"{kind}_options")
    with vstore.connect(uri, **options) as db:
        index = vstore.IndexSettings(M=4, ef_construction=20)
        db.create_collection("c", dim=4, metric="l2", fields={"v": "int"}, index=index)
    return uri, options


class Acknowledged:
    """What the lines of writers say: the stamps that were written, what became of their rows, and tags."""

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()
        self.stamps: dict[str, set[int]] = {what: set() for what in ("wrote", "without", "updated", "tagged")}
        self.unsure: set[int] = set()

    def note(self, text: str) -> None:
        last = -1
        for line in text.splitlines():
            what, _, stamp = line.partition(" ")
            self.counts[what] += 1
            if what in self.stamps:
                self.stamps[what].add(int(stamp))
                last = int(stamp)
        # The delete or update that was under way may have landed without having been acknowledged.
        self.unsure.add(last)

    def check(self, place) -> None:
        uri, options = place
        with vstore.connect(uri, **options) as db:
            collection = db.collection("c")
            for stamp in sorted(self.stamps["wrote"]):
                self._check_stamp(collection, stamp)
            for stamp in self.unsure - {-1}:
                # The write after the last that was acknowledged is there whole or not at all.
                ids = list(range((stamp + 1) * ROWS, (stamp + 2) * ROWS))
                assert sum(record is not None for record in collection.get(ids)) in (0, ROWS)
            hits = collection.search(np.zeros(4), k=10**6, recall=1.0)
            assert len(hits) == len(collection) == len({hit.id for hit in hits})
            tags = {tag for snapshot in db.snapshots("c") for tag in snapshot.tags}
            assert tags >= {f"t{stamp}" for stamp in self.stamps["tagged"]}
            for stamp in sorted(self.stamps["tagged"])[-3:]:
                with db.collection("c", at=f"t{stamp}") as tagged:
                    assert tagged.get([stamp * ROWS + 1]) != [None]
            assert db.verify("c").problems == []

    def _check_stamp(self, collection, stamp: int) -> None:
        first, *others = collection.get(list(range(stamp * ROWS, (stamp + 1) * ROWS)))
        if stamp not in self.unsure:
            assert (first is None) == (stamp in self.stamps["without"]), f"row {stamp * ROWS}"
        expected = {stamp + UPDATED} if stamp in self.stamps["updated"] else {stamp}
        if stamp in self.unsure:
            expected |= {stamp + UPDATED}
        values = {None if record is None else record.attributes["v"] for record in others}
        assert values <= expected, f"write {stamp} was acknowledged and is lost"
        assert len(values) == 1, f"write {stamp} is there in part"


class Nursery:
    """A process that forks writers, one at a time."""

    def __init__(self, place, folder: Path) -> None:
        self.place, self.out = place, folder / "acknowledged"
        self.slowest_s = 0.0
        self.process = subprocess.Popen(
            [sys.executable, str(CHILD), "nursery"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=ENV,
        )

    def killed_writer(self, first: int, wait_s: float, n_lines: int) -> str:
        """Kill a writer `wait_s` seconds after it has said `n_lines` lines; return all that it said."""
        self.out.unlink(missing_ok=True)
        self.process.stdin.write(json.dumps([*self.place, first, 100_000, str(self.out)]) + "\n")
        self.process.stdin.flush()
        pid = int(self.process.stdout.readline())
        pause = threading.Event()
        started = time.monotonic()
        while not self.out.exists() or self.out.read_text().count("\n") < n_lines:
            pause.wait(0.005)
            assert self.process.poll() is None
            if n_lines and not (self.out.exists() and self.out.stat().st_size):
                self.slowest_s = max(self.slowest_s, time.monotonic() - started)
        pause.wait(wait_s)
        os.kill(pid, signal.SIGKILL)
        assert self.process.stdout.readline() == "killed\n"
        return self.out.read_text()

    def close(self) -> None:
        self.process.stdin.close()
        self.process.wait(30)
        self.process.stdout.close()


@pytest.fixture
def nursery(place, tmp_path) -> Iterator[Nursery]:
    made = Nursery(place, tmp_path)
    try:
        yield made
    finally:
        made.close()


def test_what_was_acknowledged_survives_kills_at_any_moment(request, place, nursery):
    rng = np.random.default_rng(11)
    said = Acknowledged()
    for kill in range(N_KILLS):
        # Some die while they open the collection, most while they write, flush, merge or collect.
        n_lines = int(rng.choice([0, 1, 2, 20]))
        said.note(nursery.killed_writer(kill * 100_000, float(rng.uniform(0.0, 0.4)), n_lines))
        if kill % 10 == 9:
            print(f"{kill + 1} kills; the slowest opening took {nursery.slowest_s:.1f} s", flush=True)
    said.check(place)
    counts = ", ".join(f"{what} {n}" for what, n in sorted(said.counts.items()))
    print(f"\n{request.node.callspec.id}: {N_KILLS} kills; acknowledged: {counts}; lost: 0")


def start(place, first: int, n: int) -> subprocess.Popen[str]:
    uri, options = place
    return subprocess.Popen(
        [sys.executable, str(CHILD), uri, json.dumps(options), str(first), str(n)],
        stdout=subprocess.PIPE,
        text=True,
        env=ENV,
    )


def test_processes_that_race_for_a_collection_lose_nothing(place):
    n = 12
    children = [start(place, number * 1_000, n) for number in range(3)]
    said = Acknowledged()
    for child in children:
        out, _ = child.communicate(timeout=300)
        assert child.returncode == 0
        said.note(out)
    said.unsure.clear()
    assert len(said.stamps["wrote"]) == 3 * n
    said.check(place)


def test_of_two_processes_exactly_one_wins_each_commit(place):
    """Each version of the collection, and each record of its log, was made by one of them, and both tried."""
    n = 8
    children = [start(place, number * 1_000, n) for number in range(2)]
    said = Acknowledged()
    for child in children:
        out, _ = child.communicate(timeout=300)
        assert child.returncode == 0
        said.note(out)
    said.unsure.clear()
    assert said.counts["wrote"] >= 2 * n
    said.check(place)
    uri, options = place
    with vstore.connect(uri, **options) as db:
        catalog = db._catalog
        history = catalog.history("c")
        # Take-overs and flushes of both went into one row of versions, each on top of the one before.
        assert [m.version for m in history] == list(range(history[0].version, history[-1].version + 1))
        assert len({m.write_id for m in history}) == len(history)
        assert history[-1].writer_epoch >= 2
        prefix = layout.log_prefix("c", history[-1].collection_id)
        log = list(replay(catalog.store, prefix, history[-1].log_start))
        assert [record.epoch for record in log] == sorted(record.epoch for record in log)
