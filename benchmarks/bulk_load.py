"""The memory that a bulk load takes, for two numbers of rows in shards of one size.

python -m benchmarks.bulk_load

Vectors are a numpy memory map on disk, the store is a folder; each load is a process of its own. Anonymous
memory is what the process itself holds; pages of the map, which the system may drop at any time, count apart.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import tempfile
import threading
from pathlib import Path

import numpy as np

import vstore

DIM = 256
INDEX = vstore.IndexSettings(M=8, ef_construction=40, calibrate=False, shard_rows=20_000)


def anonymous_bytes() -> int:
    """Return the anonymous resident memory of this process."""
    status = Path("/proc/self/status").read_text()
    return next(int(line.split()[1]) << 10 for line in status.splitlines() if line.startswith("RssAnon"))


def load(vectors_path: str, n: int, answers: multiprocessing.Queue[dict[str, float]]) -> None:
    """Load the first n rows, and put the memory before and at its peak."""
    done, peak = threading.Event(), 0

    def watch() -> None:
        nonlocal peak
        while not done.wait(0.02):
            peak = max(peak, anonymous_bytes())

    vectors = np.load(vectors_path, mmap_mode="r")[:n]
    with tempfile.TemporaryDirectory() as folder, vstore.connect(folder) as db:
        collection = db.create_collection("c", dim=DIM, metric="l2", fields={"n": "int"}, index=INDEX)
        # Kernels are compiled or loaded before anything is counted.
        collection.bulk_load(range(-2000, 0), vectors[:2000])
        before = anonymous_bytes()
        watcher = threading.Thread(target=watch)
        watcher.start()
        collection.bulk_load(range(n), vectors, {"n": np.arange(n)})
        done.set()
        watcher.join()
        n_shards = len(list(Path(folder).rglob("*.shard"))) - 1
    answers.put({"before_mib": before >> 20, "peak_mib": peak >> 20, "n_shards": n_shards})


def main() -> None:
    """Measure, and print a line of JSON a load."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, nargs="+", default=[40_000, 160_000])
    rows = sorted(parser.parse_args().rows)
    context = multiprocessing.get_context("spawn")
    with tempfile.TemporaryDirectory() as folder:
        path = str(Path(folder) / "vectors.npy")
        mapped = np.lib.format.open_memmap(path, mode="w+", dtype=np.float32, shape=(rows[-1], DIM))
        rng = np.random.default_rng(0)
        for at in range(0, rows[-1], 10_000):
            part = mapped[at : at + 10_000]
            part[:] = rng.standard_normal(part.shape, dtype=np.float32)
        del mapped
        for n in rows:
            answers: multiprocessing.Queue[dict[str, float]] = context.Queue()
            process = context.Process(target=load, args=(path, n, answers))
            process.start()
            found = answers.get()
            process.join()
            print(json.dumps({"rows": n, "vectors_mib": n * DIM * 4 >> 20, **found}), flush=True)


if __name__ == "__main__":
    main()
