"""The lab's store model against a real, delayed S3 server: medians of rounds of parallel reads.

    python benchmarks/lab_store.py [--rounds 60]

SeaweedFS behind three of `lab_proxy`: one without delay, one of always 120 ms, one log-normal round 30 ms.
All are read in turn, in rounds of 1, 4, 16 and 64 ranges of 16 KiB and of 4 of 1 MiB. The model gets the
log-normal, and from the rounds of the first two what a read takes beside it: alone, of the processors to send
and to receive, and of the link. Its medians are compared with those of the log-normal rounds.

What a read costs the processors is the slope of the rounds from 16 to 64 reads: without a delay sending and
receiving share the time; behind a delay longer than all the sending they follow each other, and only the
larger of the two shows.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from vstore.lab.stores import Clock, LogNormal, SimulatedStore, StoreModel
from vstore.settings import Settings
from vstore.storage import ByteRange, ObjectStore, open_store
from vstore.types import Float64s

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))
from s3_server import S3Server

BUCKET, KEY = "lab", "object"
OBJECT_BYTES = 32 << 20
Shape = tuple[int, int]
MEDIAN_MS, SIGMA = 30.0, 0.4
CONCURRENCY = 64
FIXED_MS = 120.0
"""Longer than the client needs to send the largest round."""
SMALL = 16 << 10
LARGE = 1 << 20
ROUNDS: tuple[Shape, ...] = ((1, SMALL), (4, SMALL), (16, SMALL), (64, SMALL), (4, LARGE))
LIMIT = 0.15
RESULT = Path(__file__).parent / "results" / "lab_store.json"


@dataclass(frozen=True)
class Shifted:
    """A latency and what a read takes beside it."""

    inner: LogNormal
    base_ms: float

    def draw(self, rng: np.random.Generator, n: int) -> Float64s:
        return self.inner.draw(rng, n) + self.base_ms


@contextmanager
def proxied(server: S3Server, median_ms: float, sigma: float = 0.0) -> Iterator[ObjectStore]:
    port = server.endpoint_url.rpartition(":")[2]
    script = Path(__file__).parent / "lab_proxy.py"
    command = [sys.executable, str(script), port, str(median_ms), str(sigma), "5"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as proxy:
        assert proxy.stdout is not None
        try:
            url = f"http://127.0.0.1:{int(proxy.stdout.readline())}"
            settings = Settings(coalesce_gap_bytes=0, io_concurrency=CONCURRENCY)
            options = {**server.options, "endpoint_url": url}
            store = open_store(f"s3://{BUCKET}", settings=settings, **options)
            try:
                yield store
            finally:
                store.close()
        finally:
            proxy.kill()


def round_ms(store: ObjectStore, n: int, size: int, rng: np.random.Generator) -> float:
    slots = rng.choice(OBJECT_BYTES // (2 * size), n, replace=False)
    ranges = [ByteRange(KEY, int(slot) * 2 * size, size) for slot in slots]
    started = time.perf_counter()
    bodies = store.get_many(ranges)
    took_ms = (time.perf_counter() - started) * 1e3
    if [len(body) for body in bodies] != [size] * n:
        raise AssertionError("wrong lengths")
    return took_ms


def measure(stores: Sequence[ObjectStore], n_rounds: int) -> list[dict[Shape, float]]:
    """Return the medians of each, by shape; they take turns, so that other work meets all alike."""
    rng = np.random.default_rng(1)
    times: list[dict[Shape, list[float]]] = [{} for _ in stores]
    for i in range(n_rounds + 2):
        for shape in ROUNDS:
            for store, found in zip(stores, times, strict=True):
                took_ms = round_ms(store, *shape, rng)
                # The first rounds open connections and sign URLs.
                if i >= 2:
                    found.setdefault(shape, []).append(took_ms)
    return [{shape: statistics.median(ms) for shape, ms in found.items()} for found in times]


def fitted(near: dict[Shape, float], fixed: dict[Shape, float]) -> StoreModel:
    """Return the model of the log-normal server, from rounds without delay and with a fixed one."""
    both_ms, larger_ms = ((of[64, SMALL] - of[16, SMALL]) / 48 for of in (near, fixed))
    # Which of the two is the larger makes no difference to how long a round takes: sending is taken for it.
    send_ms = min(max(larger_ms, both_ms / 2), both_ms)
    receive_ms = both_ms - send_ms
    # What a read alone takes beside; the fixed delay has less noise than none, in which all is noise.
    rest_ms = max(fixed[1, SMALL] - FIXED_MS - both_ms, 0.0)
    link_ms = max(fixed[4, LARGE] - fixed[4, SMALL], 0.1)
    return StoreModel(
        "delayed",
        Shifted(LogNormal(MEDIAN_MS, SIGMA), rest_ms),
        link_bytes_per_s=4 * (LARGE - SMALL) / link_ms * 1000,
        concurrency=CONCURRENCY,
        send_ms=send_ms,
        receive_ms=receive_ms,
    )


def simulated_ms(model: StoreModel, n: int, size: int, n_rounds: int) -> float:
    rng, times = np.random.default_rng(9), []
    for _ in range(n_rounds):
        clock, ended = Clock(), []
        SimulatedStore(model, clock, rng).read([size] * n, lambda c=clock, e=ended: e.append(c.now_ms))  # type: ignore[misc]
        clock.run()
        times.append(ended[0])
    return statistics.median(times)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rounds", type=int, default=60)
    parser.add_argument("--out", type=Path, default=RESULT)
    asked = parser.parse_args()
    server = S3Server().start()
    try:
        server.create_bucket(BUCKET)
        direct = open_store(f"s3://{BUCKET}", **server.options)
        direct.put(KEY, np.random.default_rng(0).bytes(OBJECT_BYTES))
        direct.close()
        near, fixed, far = proxied(server, 0.0), proxied(server, FIXED_MS), proxied(server, MEDIAN_MS, SIGMA)
        with near as a, fixed as b, far as c:
            without, always, real = measure((a, b, c), asked.rounds)
    finally:
        server.stop()
    model = fitted(without, always)
    assert isinstance(model.latency, Shifted)
    measured = {
        "send_ms": model.send_ms,
        "receive_ms": model.receive_ms,
        "rest_ms": model.latency.base_ms,
        "link_bytes_per_s": model.link_bytes_per_s,
    }
    print(", ".join(f"{name} {value:,.2f}" for name, value in measured.items()))
    print(f"{'reads':>6} {'bytes':>8} {'real ms':>8} {'model ms':>9} {'off':>7}")
    rows: list[dict[str, Any]] = []
    for n, size in ROUNDS:
        ours = simulated_ms(model, n, size, 2000)
        off = ours / real[n, size] - 1
        row = {"n": n, "bytes": size, "real_p50_ms": real[n, size], "model_p50_ms": ours, "off": off}
        rows.append(row)
        print(f"{n:>6} {size:>8} {real[n, size]:>8.1f} {ours:>9.1f} {off:>+7.1%}")
    worst = max(abs(row["off"]) for row in rows)
    print(f"worst {worst:.1%}; the limit is {LIMIT:.0%}: {'holds' if worst <= LIMIT else 'does not hold'}")
    report = {"median_ms": MEDIAN_MS, "sigma": SIGMA, "rows": rows, "worst": worst}
    report["measured"] = measured
    for name, found in (("without_delay_p50_ms", without), (f"delay_{FIXED_MS:.0f}_p50_ms", always)):
        report[name] = {f"{n} x {size}": ms for (n, size), ms in found.items()}
    report |= {"rounds": asked.rounds, "cores": os.cpu_count(), "load": round(os.getloadavg()[0], 1)}
    asked.out.write_text(json.dumps(report, indent=2) + "\n")
    sys.exit(worst > LIMIT)


if __name__ == "__main__":
    main()
