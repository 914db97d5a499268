"""Starts peers, each in its own process, and measures them in turn, so that outside load meets all alike.

Peers are built one after another and then stay resident, in groups that fit the memory; the base
(hnswlib) and vstore are in every group. For each repeat, for each filter, every peer of the group sweeps.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent
BASE = "hnswlib"
OWN = "vstore"


@dataclass(frozen=True, slots=True)
class Plan:
    """What is measured and how long.

    Attributes:
        python: interpreter of the peers other than vstore.
        cpu: the processor that searches run on; -1 leaves it to the system.
        point_s: a point runs at least so long.
        stop: a sweep ends at this recall.
        sweep_s: and after so long, once it has two points.
        group: peers that are resident at a time, besides the base and vstore.
        one: one query a call instead of a batch.
    """

    python: str = sys.executable
    k: int = 10
    repeats: int = 3
    n_queries: int = 1000
    build_threads: int = 1
    cpu: int = -1
    point_s: float = 0.5
    stop: float = 0.997
    sweep_s: float = 30.0
    group: int = 4
    one: bool = False


@dataclass(frozen=True, slots=True)
class Task:
    """One filter (or none): files, and the queries it is asked with."""

    name: str
    queries: Path
    truth: Path
    rows: list[int] | None = None
    filter: dict[str, Any] | None = None


@dataclass(slots=True)
class Measured:
    """What came out: builds by peer, points, and why a peer is absent."""

    builds: dict[str, dict[str, Any]] = field(default_factory=dict)
    points: list[dict[str, Any]] = field(default_factory=list)
    absent: dict[str, str] = field(default_factory=dict)


class Process:
    """A worker process. `ask` sends an order and waits for its answer."""

    def __init__(self, peer: str, plan: Plan, log: Path) -> None:
        self.peer = peer
        self.plans: dict[str, list[dict[str, Any]]] = {}
        self.build: dict[str, Any] = {}
        read_end, write_end = os.pipe()
        python = sys.executable if peer == OWN else plan.python
        # Peers that multiply by BLAS take as many threads as there are cores unless told.
        environment = os.environ | {"OPENBLAS_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
        with open(log, "w") as file:
            self.process = subprocess.Popen(
                [python, "-m", "benchmarks.worker", peer, str(write_end)],
                cwd=ROOT,
                env=environment,
                stdin=subprocess.PIPE,
                stdout=file,
                stderr=file,
                pass_fds=[write_end],
                text=True,
            )
        os.close(write_end)
        self.replies = os.fdopen(read_end)

    def ask(self, **order: Any) -> dict[str, Any]:
        """Return the answer, or {"error": ...} where the process ended."""
        assert self.process.stdin is not None
        try:
            self.process.stdin.write(json.dumps(order) + "\n")
            self.process.stdin.flush()
            line = self.replies.readline()
        except BrokenPipeError:
            line = ""
        if line:
            answer: dict[str, Any] = json.loads(line)
            return answer
        return {"error": f"its process ended with code {self.process.wait()}"}

    def end(self) -> None:
        """Stop the process and wait for it; its files go with it."""
        try:
            if self.process.stdin is not None:
                self.process.stdin.write('{"do": "quit"}\n')
                self.process.stdin.close()
            self.process.wait(20)
        except (BrokenPipeError, subprocess.TimeoutExpired):
            self.process.kill()
            self.process.wait()
        self.replies.close()


def measure(
    peers: Sequence[str],
    points: Path,
    columns: dict[str, Path],
    tasks: Sequence[Task],
    plan: Plan,
    logs: Path,
) -> Measured:
    """Build every peer and run every task's sweep; a peer that fails is named with its reason.

    Args:
        peers: names of `benchmarks.peers.PEERS`.
        points: float32[n, d] as .npy.
        columns: attribute columns as .npy; peers without filters do not get them.
        tasks: what is asked; peers without filters answer only the tasks that have none.
        plan: how.
        logs: a folder for what the peers print.
    """
    out = Measured()
    logs.mkdir(parents=True, exist_ok=True)
    always = [peer for peer in (BASE, OWN) if peer in peers]
    others = [peer for peer in peers if peer not in always]
    groups = [others[i : i + plan.group] for i in range(0, len(others), plan.group)] or [[]]
    resident = start(always, points, columns, plan, logs, out)
    try:
        for number, group in enumerate(groups):
            visiting = start(group, points, columns, plan, logs, out)
            try:
                run_group(resident + visiting, tasks, plan, number, out)
            finally:
                for process in visiting:
                    process.end()
    finally:
        for process in resident:
            process.end()
    return out


def start(
    peers: Sequence[str], points: Path, columns: dict[str, Path], plan: Plan, logs: Path, out: Measured
) -> list[Process]:
    """Start and build peers one after another; return those that work."""
    started: list[Process] = []
    files = {name: str(path) for name, path in columns.items()}
    for peer in peers:
        process = Process(peer, plan, logs / f"{peer}.log")
        built = process.ask(do="build", points=str(points), columns=files, threads=plan.build_threads)
        if "error" in built:
            out.absent[peer] = built["error"]
            say(f"{peer:16} absent: {built['error']}")
            process.end()
            continue
        process.build = built
        out.builds[peer] = {key: value for key, value in built.items() if key != "params"}
        say(f"{peer:16} {built['version']:10} built in {built['build_s']:.1f} s")
        started.append(process)
    return started


def run_group(
    processes: Sequence[Process], tasks: Sequence[Task], plan: Plan, group: int, out: Measured
) -> None:
    """Run the repeats of one group of resident peers."""
    for repeat in range(plan.repeats):
        for task in tasks:
            for process in processes:
                if process.peer in out.absent or (task.filter and not process.build["filters"]):
                    continue
                sweep(process, task, plan, group, repeat, out)


def sweep(process: Process, task: Task, plan: Plan, group: int, repeat: int, out: Measured) -> None:
    """Run one peer's sweep for one task; later repeats run the points that the first one needed."""
    key = f"{group}/{task.name}"
    planned = process.plans.get(key)
    params = planned or process.build["params"]["filter" if task.filter else "none"]
    reached: list[tuple[dict[str, Any], float]] = []
    started = time.perf_counter()
    order = {
        "do": "measure",
        "queries": str(task.queries),
        "truth": str(task.truth),
        "rows": task.rows,
        "filter": task.filter,
        "k": plan.k,
        "n_queries": plan.n_queries,
        "cpu": plan.cpu,
        "point_s": plan.point_s,
        "one": plan.one,
    }
    done: set[str] = set()
    for param in params:
        # One kind of setting is a ladder of its own: where `recall` has gone far enough, `ef` begins.
        (kind,) = param
        if planned is None and kind in done:
            continue
        answer = process.ask(**order, param=param)
        if "error" in answer:
            say(f"{process.peer:16} {task.name}: {param} failed: {answer['error']}")
            out.points.append({"peer": process.peer, "filter": task.name, "param": param, **answer})
            if process.process.poll() is not None:
                out.absent[process.peer] = answer["error"]
                return
            break
        reached.append((param, answer["recall"]))
        out.points.append(
            {
                "peer": process.peer,
                "filter": task.name,
                "group": group,
                "repeat": repeat,
                "param": param,
                **answer,
            }
        )
        spent = time.perf_counter() - started > plan.sweep_s and len(reached) > 1
        # A calibrated recall is measured to its end: what it promises is what is asked.
        if (answer["recall"] >= plan.stop and kind != "recall") or spent:
            done.add(kind)
    if planned is None and reached:
        process.plans[key] = worth_repeating(reached)
        best = max(recall for _, recall in reached)
        say(f"{process.peer:16} {task.name:28} best recall {best:.4f} ({len(reached)} points)")


def worth_repeating(reached: Sequence[tuple[dict[str, Any], float]]) -> list[dict[str, Any]]:
    """Return the params of a first sweep less those far below every recall that is reported."""
    low = [i for i, (_, recall) in enumerate(reached) if recall < 0.85]
    keep_from = low[-1] if low else 0
    return [param for i, (param, recall) in enumerate(reached) if recall >= 0.85 or i == keep_from]


def say(line: str) -> None:
    """Print progress, apart from the tables."""
    print(line, file=sys.stderr, flush=True)
