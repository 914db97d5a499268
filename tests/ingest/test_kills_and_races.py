"""Real processes on a folder and on a bucket: killed at random moments, and racing for one collection.

VSTORE_KILLS says how many kills each; 3 are the default, 200 the nightly run's.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
from race_child import ROWS

import vstore

N_KILLS = int(os.environ.get("VSTORE_KILLS", "3"))
CHILD = Path(__file__).parent / "race_child.py"
ROOT = CHILD.parent.parent.parent


@pytest.fixture(params=["folder", pytest.param("bucket", marks=pytest.mark.s3)])
def place(request, tmp_path):
    """A store with an empty collection "c": its uri and the options of `connect`."""
    if request.param == "folder":
        uri, options = str(tmp_path), {}
    else:
        uri, options = request.getfixturevalue("s3_url"), request.getfixturevalue("s3_options")
    with vstore.connect(uri, **options) as db:
        index = vstore.IndexSettings(M=4, ef_construction=20)
        db.create_collection("c", dim=4, metric="l2", fields={"v": "int"}, index=index)
    return uri, options


def start(place, first: int, n: int) -> subprocess.Popen[str]:
    uri, options = place
    path = os.pathsep.join([str(ROOT), str(ROOT / "kernels")])
    child = subprocess.Popen(
        [sys.executable, str(CHILD), uri, json.dumps(options), str(first), str(n)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": path},
    )
    assert child.stdout.readline() == "ready\n"
    return child


def go(child: subprocess.Popen[str]) -> None:
    child.stdin.write("go\n")
    child.stdin.flush()


def acknowledged(text: str) -> dict[int, bool]:
    """Stamps that were acknowledged, and whether their first row was deleted again."""
    lines = [line.split() for line in text.splitlines()]
    return {int(stamp): op == "without" for op, stamp in lines if op in ("wrote", "without")}


def check(place, stamps: dict[int, bool]) -> None:
    uri, options = place
    with vstore.connect(uri, **options) as db:
        collection = db.collection("c")
        for stamp, without in stamps.items():
            ids = list(range(stamp * ROWS, (stamp + 1) * ROWS))
            records = collection.get(ids)
            assert (records[0] is None) == without, f"row {ids[0]}"
            for record in records[without:]:
                assert record is not None, f"write {stamp} was acknowledged and is lost"
                assert record.attributes == {"v": stamp}
        hits = collection.search(np.zeros(4), k=10**6, recall=1.0)
        assert len(hits) == len(collection) == len({hit.id for hit in hits})
        assert db.verify("c").problems == []


def test_what_was_acknowledged_survives_kills_at_any_moment(place):
    rng = np.random.default_rng(11)
    stamps: dict[int, bool] = {}
    for kill in range(N_KILLS):
        child = start(place, kill * 100_000, 100_000)
        go(child)
        first = child.stdout.readline()
        timer = threading.Timer(float(rng.uniform(0.0, 0.8)), child.kill)
        timer.start()
        rest = child.stdout.read()
        child.wait()
        stamps |= acknowledged(first + rest)
    assert len(stamps) >= N_KILLS
    check(place, stamps)


def test_processes_that_race_for_a_collection_lose_nothing(place):
    n = 12
    children = [start(place, number * 1_000, n) for number in range(3)]
    for child in children:
        go(child)
    stamps: dict[int, bool] = {}
    for child in children:
        out, _ = child.communicate(timeout=300)
        assert child.returncode == 0
        stamps |= acknowledged(out)
    assert len(stamps) == 3 * n
    check(place, stamps)
