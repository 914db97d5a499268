"""Durable upserts, searches beside them, and what a kill costs, against the floors that vstore sets itself.

    python -m benchmarks.ingest [--rows 40000] [--kills 20] [--python PEERS/bin/python]
                                [--chroma-python CHROMA/bin/python] [--out FILE]
    python -m benchmarks.ingest --searches      # only the searches beside ingestion

Rows are 384 floats, seeded, upserted 1,000 at a time into a local folder; each call is durable on return.
lancedb and chromadb, where the interpreters have them, write the same batches to a folder of their own, in
turns with vstore; the first batch of each is not counted, and the median of rounds is shown. lancedb calls
neither fsync nor fdatasync, so a line says what it does where every file that a call wrote is synced after
it, and another what vstore does with fsync turned off: `add` is to be read beside that one.
Searches are timed one at a time: idle, then while another thread upserts without pause and shards are
built behind it, then idle again over the rows and shards that this left, which are more than at first. The
floor is judged by the mean of the two idle medians, as the rows during ingestion lie between; both ratios
are shown. The kill test ends a writing process with SIGKILL at random moments and looks for every row that
it had said was acknowledged. Other work on the machine shows in all figures but the last.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

DIM = 384
BATCH = 1_000
FLOOR_ROWS_PER_S = 20_000
FLOOR_RATIO = 2.0
SETTLED_S = 4.0
PEERS = {
    "lancedb": "lancedb merge_insert, rows/s",
    "lancedb-synced": "lancedb merge_insert, then synced, rows/s",
    "lancedb-add-synced": "lancedb add (appends, no upsert), then synced, rows/s",
    "chromadb": "chromadb upsert, rows/s",
}
NOT_DURABLE = {
    "vstore-unsynced": "not durable: vstore upsert without fsync, rows/s",
    "lancedb-add": "not durable: lancedb add, rows/s",
}
"""Shown beside each other; no floor."""


def batches(n_rows: int, seed: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    rng = np.random.default_rng(seed)
    for start in range(0, n_rows, BATCH):
        yield np.arange(start, start + BATCH), rng.standard_normal((BATCH, DIM), dtype=np.float32)


def rows_per_second(upsert: Callable[[Any, Any], Any], n_rows: int) -> float:
    """Return the rate of the calls alone; making the rows is not counted."""
    seconds: list[float] = []
    for ids, vectors in batches(n_rows, 1):
        started = time.perf_counter()
        upsert(ids, vectors)
        seconds.append(time.perf_counter() - started)
    return BATCH * (len(seconds) - 1) / sum(seconds[1:])


def vstore_rate(folder: str, n_rows: int) -> float:
    import vstore

    # Until the memtable flushes: all of it fits.
    settings = vstore.Settings(memtable_rows=n_rows + 1, memtable_bytes=1 << 40)
    with vstore.connect(folder, settings=settings) as db:
        return rows_per_second(db.create_collection("c", dim=DIM, metric="l2").upsert, n_rows)


def vstore_unsynced_rate(folder: str, n_rows: int) -> float:
    """Upserts of a process whose fsync does nothing: what a power cut leaves of them nobody knows."""
    os.fsync = lambda fd: None
    return vstore_rate(folder, n_rows)


class Synced:
    """Makes durable what a call wrote: every file that is new or changed, and the folders' entries."""

    def __init__(self, folder: str) -> None:
        self._folder = folder
        self._seen: dict[str, tuple[int, int]] = {}

    def sync(self) -> None:
        for parent, _, names in os.walk(self._folder):
            n_fresh = 0
            for path in (os.path.join(parent, name) for name in names):
                found = os.stat(path)
                state = (found.st_mtime_ns, found.st_size)
                if self._seen.get(path) != state:
                    self._seen[path] = state
                    n_fresh += 1
                    _fsync(path)
            if n_fresh:
                _fsync(parent)


def _fsync(path: str) -> None:
    number = os.open(path, os.O_RDONLY)
    try:
        os.fsync(number)
    finally:
        os.close(number)


def lancedb_rate(folder: str, n_rows: int, upserts: bool = True, synced: bool = False) -> float:
    import lancedb
    import pyarrow as pa

    schema = pa.schema([("id", pa.int64()), ("vector", pa.list_(pa.float32(), DIM))])
    table = lancedb.connect(folder).create_table("c", schema=schema)

    def add(ids: np.ndarray, vectors: np.ndarray) -> None:
        column = pa.FixedSizeListArray.from_arrays(pa.array(vectors.reshape(-1)), DIM)
        rows = pa.table({"id": pa.array(ids), "vector": column}, schema=schema)
        if upserts:
            merge = table.merge_insert("id").when_matched_update_all().when_not_matched_insert_all()
            merge.execute(rows)
        else:
            table.add(rows)
        if synced:
            disk.sync()

    disk = Synced(folder)
    disk.sync()
    return rows_per_second(add, n_rows)


def chromadb_rate(folder: str, n_rows: int) -> float:
    import chromadb

    collection = chromadb.PersistentClient(folder).create_collection("rows", metadata={"hnsw:space": "l2"})
    return rows_per_second(lambda ids, rows: collection.upsert([str(i) for i in ids], rows), n_rows)


def lancedb_add_rate(folder: str, n_rows: int) -> float:
    """Appends: an id that is there already is there twice afterwards."""
    return lancedb_rate(folder, n_rows, upserts=False)


RATES = {
    "vstore": vstore_rate,
    "vstore-unsynced": vstore_unsynced_rate,
    "lancedb": lancedb_rate,
    "lancedb-synced": lambda folder, n_rows: lancedb_rate(folder, n_rows, synced=True),
    "lancedb-add": lancedb_add_rate,
    "lancedb-add-synced": lambda folder, n_rows: lancedb_rate(folder, n_rows, upserts=False, synced=True),
    "chromadb": chromadb_rate,
}


def rate_of(name: str, n_rows: int, python: str) -> float | None:
    """Measure in a process of its own; None where the interpreter lacks the peer."""
    with tempfile.TemporaryDirectory() as folder:
        asked = [python, str(Path(__file__)), "--measure", name, "--rows", str(n_rows), "--folder", folder]
        own = name.startswith("vstore")
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path) if own else ""}
        ended = subprocess.run(asked, capture_output=True, text=True, check=False, env=environment)
    if ended.returncode == 3:
        return None
    if ended.returncode:
        raise SystemExit(f"{name} failed:\n{ended.stderr}")
    return float(ended.stdout.split()[-1])


def search_p50s(n_rows: int, n_threads: int) -> dict[str, Any]:
    """Return p50 and p99 of searches, idle before and after and during ingestion, in ms."""
    import vstore

    queries = np.random.default_rng(2).standard_normal((64, DIM), dtype=np.float32)
    settings = vstore.Settings(memtable_rows=max(n_rows // 4, BATCH), n_threads=n_threads)
    with tempfile.TemporaryDirectory() as folder, vstore.connect(folder, settings=settings) as db:
        collection = db.create_collection("c", dim=DIM, metric="l2")
        for ids, vectors in batches(n_rows, 1):
            collection.upsert(ids, vectors, progress=False)
        collection.compact(progress=False)

        def timed(until: Callable[[int], bool]) -> list[float]:
            found: list[float] = []
            while not until(len(found)):
                started = time.perf_counter()
                collection.search(queries[len(found) % len(queries)], k=10)
                found.append((time.perf_counter() - started) * 1e3)
            return found

        timed(lambda n: n >= 50)
        idle = timed(lambda n: n >= 500)
        n_before = len(db.snapshots("c"))

        def write() -> None:
            # As many rows again, of ids that are there and of new ones.
            for ids, vectors in batches(n_rows, 3):
                collection.upsert(ids + n_rows // 2, vectors, progress=False)

        writer = threading.Thread(target=write)
        writer.start()
        busy = timed(lambda n: not writer.is_alive() and n >= 50)
        n_versions = len(db.snapshots("c")) - n_before
        # A build that is still under way would be no idle machine.
        n_published = -1
        while n_published != len(db.snapshots("c")):
            n_published = len(db.snapshots("c"))
            threading.Event().wait(SETTLED_S)
        timed(lambda n: n >= 50)
        after = timed(lambda n: n >= 500)
    return {
        "idle_p50_ms": statistics.median(idle),
        "idle_after_p50_ms": statistics.median(after),
        "busy_p50_ms": statistics.median(busy),
        "idle_p99_ms": float(np.percentile(idle, 99)),
        "busy_p99_ms": float(np.percentile(busy, 99)),
        "n_searches_busy": len(busy),
        "n_versions_published": n_versions,
    }


def child(folder: str) -> None:
    """Upsert and say so, until killed."""
    import vstore

    settings = vstore.Settings(memtable_rows=200, n_threads=1)
    collection = vstore.connect(folder, settings=settings).collection("c")
    first = int(sys.stdin.readline())
    for stamp in range(first, first + 100_000):
        collection.upsert([stamp * 10 + i for i in range(10)], np.full((10, 8), stamp, np.float32))
        print(stamp, flush=True)


def rows_lost(n_kills: int, seed: int) -> tuple[int, int]:
    """Kill a writing process so often; return the rows acknowledged and those missing afterwards."""
    import vstore

    rng = np.random.default_rng(seed)
    acknowledged: list[int] = []
    with tempfile.TemporaryDirectory() as folder:
        with vstore.connect(folder) as db:
            db.create_collection("c", dim=8, metric="l2", index=vstore.IndexSettings(M=4, ef_construction=20))
        for _ in range(n_kills):
            process = subprocess.Popen(
                [sys.executable, str(Path(__file__)), "--child", folder],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
                env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
            )
            assert process.stdin is not None
            assert process.stdout is not None
            process.stdin.write(f"{len(acknowledged) + 1_000_000 * bool(acknowledged)}\n")
            process.stdin.flush()
            first = process.stdout.readline()
            waiting = threading.Timer(float(rng.uniform(0.0, 1.5)), process.send_signal, [signal.SIGKILL])
            waiting.start()
            rest = process.stdout.read()
            process.wait()
            lines = (first + rest).splitlines()
            acknowledged += [int(line) for line in lines if line.strip()]
        with vstore.connect(folder) as db:
            ids = [stamp * 10 + i for stamp in acknowledged for i in range(10)]
            found = db.collection("c").get(ids)
            lost = sum(
                record is None or record.vector[0] != np.float32(key // 10)
                for key, record in zip(ids, found, strict=True)
            )
            if not db.verify("c").ok:
                raise SystemExit("verify found problems after the kills")
    return len(ids), int(lost)


def table(lines: list[tuple[str, str, str, str]]) -> str:
    """Return the floors as text: what, measured, floor, whether it holds."""
    head = ("what", "measured", "floor", "holds")
    widths = [max(len(line[i]) for line in [head, *lines]) for i in range(4)]
    return "\n".join(
        "  ".join(cell.ljust(w) for cell, w in zip(line, widths, strict=True)) for line in [head, *lines]
    )


def main() -> None:
    asked = options()
    if asked.measure:
        if find_spec(asked.measure.partition("-")[0]) is None:
            sys.exit(3)
        print(RATES[asked.measure](asked.folder, asked.rows))
        return
    if asked.child:
        child(asked.child)
        return
    if asked.searches:
        print(table([search_line(search_p50s(asked.rows, asked.threads))]))
        return
    names = ("vstore", *PEERS, *NOT_DURABLE)
    pythons = {"vstore": sys.executable, "lancedb": asked.python, "chromadb": asked.chroma_python}
    rates: dict[str, list[float]] = {name: [] for name in names}
    for _ in range(asked.rounds):
        for name in names:
            rate = rate_of(name, asked.rows, pythons[name.partition("-")[0]])
            rates[name] += [] if rate is None else [rate]
    medians = {name: statistics.median(found) for name, found in rates.items() if found}
    searches = search_p50s(asked.rows, asked.threads)
    n_acknowledged, n_lost = rows_lost(asked.kills, 7)
    own = medians["vstore"]
    lines = [
        (
            "acknowledged rows lost",
            f"{n_lost} of {n_acknowledged:,} ({asked.kills} kills)",
            "0",
            said(not n_lost),
        ),
        ("durable upserts, rows/s", f"{own:,.0f}", f"{FLOOR_ROWS_PER_S:,}", said(own >= FLOOR_ROWS_PER_S)),
    ]
    for name in PEERS:
        rate = medians.get(name)
        measured = "not installed" if rate is None else f"{rate:,.0f}"
        judged = "-" if rate is None else said(own > rate)
        lines.append((f"  {PEERS[name]}", measured, "less", judged))
    for name, words in NOT_DURABLE.items():
        rate = medians.get(name)
        lines.append((f"  {words}", "not installed" if rate is None else f"{rate:,.0f}", "-", "-"))
    lines.append(search_line(searches))
    print(table(lines))
    if asked.out:
        found = {
            "rows": asked.rows,
            "rates": rates,
            "searches": searches,
            "kills": asked.kills,
            "lost": n_lost,
        }
        asked.out.write_text(
            json.dumps({**found, "load": os.getloadavg()[0], "cores": os.cpu_count()}, indent=1) + "\n"
        )


def search_line(searches: dict[str, Any]) -> tuple[str, str, str, str]:
    """Return the line of the table that says what ingestion does to searches."""
    busy_ms = searches["busy_p50_ms"]
    before_ms, after_ms = searches["idle_p50_ms"], searches["idle_after_p50_ms"]
    idle_ms = (before_ms + after_ms) / 2
    measured = (
        f"{busy_ms:.2f} / {idle_ms:.2f} ms = {busy_ms / idle_ms:.2f} "
        f"(idle before {before_ms:.2f}: {busy_ms / before_ms:.2f}; "
        f"after {after_ms:.2f}: {busy_ms / after_ms:.2f})"
    )
    holds = said(busy_ms <= FLOOR_RATIO * idle_ms)
    return "search p50 ingesting / idle", measured, f"{FLOOR_RATIO:.0f}", holds


def said(holds: bool) -> str:
    """Return the word for the table."""
    return "yes" if holds else "NO"


def options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.ingest", description=__doc__)
    parser.add_argument("--rows", type=int, default=40_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--threads", type=int, default=1, help="of a build behind the searches")
    parser.add_argument("--python", default=sys.executable, help="the interpreter that has lancedb")
    parser.add_argument("--chroma-python", default=sys.executable, help="the one that has chromadb")
    parser.add_argument("--out", type=Path)
    parser.add_argument("--searches", action="store_true", help="measure only searches beside ingestion")
    parser.add_argument("--measure", choices=list(RATES), help=argparse.SUPPRESS)
    parser.add_argument("--folder", help=argparse.SUPPRESS)
    parser.add_argument("--child", help=argparse.SUPPRESS)
    return parser.parse_args()


if __name__ == "__main__":
    main()
