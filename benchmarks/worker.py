"""One peer in one process: reads orders as JSON lines from standard input, answers on a pipe of its own.

Imports numpy and the peer alone, so it runs under an interpreter that has no vstore. Orders: build,
measure, quit. What a peer prints goes to standard error.
"""

from __future__ import annotations

import functools
import gc
import json
import os
import resource
import shutil
import sys
import time
import traceback
from pathlib import Path
from typing import Any

import numpy as np

from .clauses import mask_of
from .peers import Passing, peer_class
from .recall import recall

WARM_UP = 20
MIN_QUERIES = 200
LONGEST_S = 20.0
"""A point that would take longer uses fewer queries, but never fewer than `MIN_QUERIES` / 4."""


class Worker:
    """A peer, its index, and the filters that were prepared for it."""

    def __init__(self, peer: str) -> None:
        self.peer = peer_class(peer)()
        self.handles: dict[str, tuple[Any, float]] = {}

    def build(self, order: dict[str, Any]) -> dict[str, Any]:
        """Index the points named by the order; return the peer's version, seconds, and bytes."""
        self.points = np.load(order["points"])
        self.columns = {name: np.load(path) for name, path in order["columns"].items()}
        indexed = self.columns if self.peer.filters else {}
        gc.collect()
        before_bytes, wall_s, cpu_s = resident_bytes(), time.perf_counter(), time.process_time()
        self.peer.build(self.points, indexed, order["threads"])
        took_s, took_cpu_s = time.perf_counter() - wall_s, time.process_time() - cpu_s
        gc.collect()
        grown_bytes = resident_bytes() - before_bytes
        peak_bytes = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
        self.peer.one_thread()
        return {
            "version": self.peer.version(),
            "note": self.peer.note,
            "filters": self.peer.filters,
            "build_s": took_s,
            "build_cpu_s": took_cpu_s,
            "threads": order["threads"],
            "grown_bytes": grown_bytes,
            "peak_bytes": peak_bytes,
            "size_bytes": self.peer.size_bytes(),
            "params": {"none": self.peer.params(False), "filter": self.peer.params(True)},
        }

    def measure(self, order: dict[str, Any]) -> dict[str, Any]:
        """Run one point of a sweep; return recall, queries a second by the wall and by processor time."""
        queries = np.load(order["queries"])[: order["n_queries"]]
        if order["rows"] is not None:
            queries = np.load(order["queries"])[np.asarray(order["rows"])][: order["n_queries"]]
        queries = np.ascontiguousarray(queries)
        truth = np.load(order["truth"])[: order["n_queries"]]
        mask, handle, prepare_s = self.filter(order["filter"])
        pin(order["cpu"])
        run = functools.partial(self.run, k=order["k"], param=order["param"], handle=handle, one=order["one"])
        run(queries[:5])
        started = time.perf_counter()
        run(queries[:WARM_UP])
        each_s = (time.perf_counter() - started) / min(WARM_UP, len(queries))
        n = int(min(len(queries), max(MIN_QUERIES, order["point_s"] / each_s)))
        n = max(min(n, int(LONGEST_S / each_s)), min(len(queries), MIN_QUERIES // 4))
        rounds, wall_s, cpu_s = 0, 0.0, 0.0
        found = np.empty((0, order["k"]), np.int64)
        while rounds == 0 or wall_s < order["point_s"]:
            wall, cpu = time.perf_counter(), time.process_time()
            found = run(queries[:n])
            wall_s += time.perf_counter() - wall
            cpu_s += time.process_time() - cpu
            rounds += 1
        reached = recall(self.points, queries[:n], found, truth[:n], order["k"], mask)
        return {
            "recall": reached,
            "qps": rounds * n / wall_s,
            "qps_cpu": rounds * n / max(cpu_s, 1e-9),
            "n_queries": n,
            "prepare_s": prepare_s,
        }

    def run(self, queries: Any, k: int, param: dict[str, Any], handle: Any, one: bool) -> Any:
        """Answer all queries, in one call or one a call."""
        if not one:
            return np.asarray(self.peer.search(queries, k, param, handle))
        answers = [self.peer.search(queries[i : i + 1], k, param, handle) for i in range(len(queries))]
        return np.concatenate(answers)

    def filter(self, stored: dict[str, Any] | None) -> tuple[Any, Any, float]:
        """Return (mask, the peer's handle, seconds to make it); (None, None, 0) without a filter."""
        if stored is None:
            return None, None, 0.0
        clauses = [tuple(clause) for clause in stored["clauses"]]
        mask = mask_of(clauses, self.columns)
        if stored["name"] not in self.handles:
            started = time.perf_counter()
            handle = self.peer.prepare(Passing(clauses, mask))
            # Of the last filter only: a list per filter would fill the memory.
            self.handles = {stored["name"]: (handle, time.perf_counter() - started)}
        return mask, *self.handles[stored["name"]]

    def close(self) -> None:
        """Remove what the peer wrote."""
        shutil.rmtree(self.peer.folder, ignore_errors=True)


def pin(cpu: int) -> None:
    """Keep every thread of this process on one processor: some peers have pools that no setting reaches."""
    if cpu >= 0 and hasattr(os, "sched_setaffinity"):
        for task in os.listdir("/proc/self/task"):
            try:
                os.sched_setaffinity(int(task), {cpu})
            except ProcessLookupError:
                continue  # It ended between the listing and the call.


def resident_bytes() -> int:
    """Return the resident memory of this process."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()


def main() -> None:
    """Serve until `quit` or the end of the input."""
    reply = os.fdopen(int(sys.argv[2]), "w")
    # Peers print; a reply has a pipe of its own.
    os.dup2(2, 1)
    worker = None
    for line in sys.stdin:
        order = json.loads(line)
        try:
            worker = worker or Worker(sys.argv[1])
            if order["do"] == "quit":
                break
            answer = worker.build(order) if order["do"] == "build" else worker.measure(order)
        except BaseException as error:  # A peer may raise anything; the report names it.
            traceback.print_exc()
            answer = {"error": f"{type(error).__name__}: {error}"[:300]}
        reply.write(json.dumps(answer) + "\n")
        reply.flush()
    if worker is not None:
        worker.close()
    reply.close()
    # Pools of some peers keep a normal exit waiting.
    os._exit(0)


if __name__ == "__main__":
    main()
