"""Times on a real S3 server that is far away: vstore, and LanceDB beside it, in processes of their own."""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import uuid
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np

from .datasets import Dataset, load
from .datasets.cache import root
from .delay_proxy import DelayProxy
from .filters import Grid, grid_of
from .object_counts import K, Task, recall_of
from .object_kept import Kept
from .object_stores import kept_store
from .remote_lancedb import KINDS

TIMED = ("cold", "warm")
BUCKET = "vstore-bench"
WARM_QUERIES = 10
COLD_RUNS = 3
READY_ROWS = 3_000
"""Of a small store that makes a new process load its kernels before the clock starts."""
REACHED = 0.95
LADDER: dict[str, list[dict[str, int]]] = {
    "IVF_PQ": [
        {"nprobes": nprobes, "refine": refine}
        for nprobes, refine in ((10, 5), (20, 10), (50, 10), (100, 20), (300, 30), (1000, 50))
    ],
    "IVF_HNSW_SQ": [
        {"nprobes": nprobes, "refine": 2, "ef": ef}
        for nprobes, ef in ((2, 40), (4, 80), (8, 160), (20, 320), (50, 640))
    ],
}
"""LanceDB's settings, cheap to dear; the first that reaches the recall is timed."""


def climb(n_rungs: int, start: int, reaches: Callable[[int], bool]) -> int:
    """Return the lowest rung that reaches, or the last where none does; asks of none twice.

    Args:
        n_rungs: of the ladder.
        start: where to begin: what the task before needed is near.
        reaches: whether a rung does; rungs above one that does do too.
    """
    rung = start
    if reaches(rung):
        while rung and reaches(rung - 1):
            rung -= 1
        return rung
    while rung < n_rungs - 1:
        rung += 1
        if reaches(rung):
            break
    return rung


class Bucket:
    """A server with one bucket, and a proxy before it; a context manager."""

    def __init__(self, latency_ms: float) -> None:
        tests = str(Path(__file__).parent.parent / "tests")
        if tests not in sys.path:
            sys.path.insert(0, tests)
        from s3_server import S3Server

        self._server = S3Server()
        self._latency_ms = latency_ms

    def __enter__(self) -> Bucket:
        self._server.start()
        self._server.create_bucket(BUCKET)
        self._proxy = DelayProxy(self._server.endpoint_url, self._latency_ms)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._proxy.__exit__(kind, error, trace)
        self._server.stop()

    @property
    def far_options(self) -> dict[str, str]:
        """The options of `vstore.open`, through the proxy."""
        return {**self._server.options, "endpoint_url": self._proxy.endpoint_url}

    def lance_options(self) -> dict[str, str]:
        """The options of `lancedb.connect`, through the proxy."""
        options = self._server.options
        return {
            "aws_access_key_id": options["access_key_id"],
            "aws_secret_access_key": options["secret_access_key"],
            "aws_region": options["region"],
            "aws_endpoint": self._proxy.endpoint_url,
            "allow_http": "true",
        }

    def upload(self, folder: Path, prefix: str) -> None:
        """Copy a folder into the bucket, past the proxy, each file in one request.

        A ranged read of an object that came in parts makes SeaweedFS read a whole part, some 30 ms of its
        processor time, which S3 does not.
        """
        import boto3
        from boto3.s3.transfer import TransferConfig

        options = self._server.options
        client = boto3.client(
            "s3",
            endpoint_url=options["endpoint_url"],
            aws_access_key_id=options["access_key_id"],
            aws_secret_access_key=options["secret_access_key"],
            region_name=options["region"],
        )
        whole = TransferConfig(multipart_threshold=5 << 30)
        files = [path for path in folder.rglob("*") if path.is_file() and path.stat().st_size]
        with ThreadPoolExecutor(4) as pool:
            for _ in pool.map(
                lambda path: client.upload_file(
                    str(path), BUCKET, f"{prefix}/{path.relative_to(folder).as_posix()}", Config=whole
                ),
                files,
            ):
                pass


class Timed:
    """Times the tasks.

    Args:
        dataset: searched.
        peer_python: the interpreter that has lancedb; None leaves it out.
        quick: few runs.
        kept: has the tasks that were timed already, and notes versions and a receipt.
    """

    def __init__(self, dataset: Dataset, peer_python: str | None, quick: bool, kept: Kept) -> None:
        self._dataset, self._python, self._kept = dataset, peer_python, kept
        self._cold_runs, self._n_warm = (2, 5) if quick else (COLD_RUNS, WARM_QUERIES)
        self._rungs = dict.fromkeys(LADDER, 0)
        self._queries = root() / f"os-queries-{uuid.uuid4().hex}.npy"

    def run(self, bucket: Bucket, folder: Path, grid: Grid, tasks: list[Task]) -> list[dict[str, Any]]:
        """Return a row for each task, state and store; those of vstore have the peer's time over its own."""
        np.save(self._queries, self._dataset.queries[grid.group])
        small = load(self._dataset.name, READY_ROWS)
        self._ready = kept_store(small, grid_of(small), 1)
        try:
            print("\nuploading", flush=True)
            bucket.upload(folder, "vstore")
            uris = {"vstore": f"s3://{BUCKET}/vstore"}
            for kind in KINDS if self._python else ():
                kept = self._built(kind, grid)
                if kept is not None:
                    bucket.upload(kept, kind)
                    uris[kind] = f"s3://{BUCKET}/{kind}"
            rows = []
            for task in tasks:
                rows += self._kept.part(f"timed {task.name}", partial(self._task, bucket, uris, task))
            return rows
        finally:
            self._queries.unlink(missing_ok=True)

    def _task(self, bucket: Bucket, uris: dict[str, str], task: Task) -> list[dict[str, Any]]:
        ours = self._measure(bucket, "vstore", uris["vstore"], task, {})
        # One that reaches the recall beats one that does not; then the faster.
        tuned = [(kind, *self._tuned(bucket, kind, uris[kind], task)) for kind in uris if kind != "vstore"]
        theirs: dict[str, dict[str, Any]] = {}
        if tuned:
            kind, param, _ = min(tuned, key=lambda each: each[2])
            theirs = self._measure(bucket, kind, uris[kind], task, param)
        rows = []
        for state in TIMED:
            row, peer = ours[state], theirs.get(state)
            if peer is not None:
                row["ratio"] = peer["ms"] / row["ms"]
            rows += [row] if peer is None else [row, peer]
            for each in [row] if peer is None else [row, peer]:
                shown = f"recall {each['recall']:.3f}  {each['ms']:.0f} ms"
                print(f"{task.name:10} {state:5} {each['store']:12} {shown}", flush=True)
        return rows

    def _tuned(
        self, bucket: Bucket, kind: str, uri: str, task: Task
    ) -> tuple[dict[str, Any], tuple[bool, float]]:
        """Return the peer's cheapest setting that reaches the recall, and what ranks it among others."""
        ladder = LADDER[kind]
        command, order = self._order(bucket, kind, uri, task, {}, list(range(self._n_warm)), 1)
        ranks: dict[int, tuple[bool, float]] = {}
        with subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=sys.stderr, text=True
        ) as peer:
            assert peer.stdin is not None
            assert peer.stdout is not None
            sink, source = peer.stdin, peer.stdout
            print(json.dumps(order | {"do": "tune"}), file=sink, flush=True)

            def reaches(rung: int) -> bool:
                print(json.dumps(ladder[rung]), file=sink, flush=True)
                line = source.readline()
                if not line:
                    raise subprocess.CalledProcessError(peer.wait(), command)
                answer = json.loads(line)
                short = recall_of(self._dataset, task, answer["ids"]) < REACHED
                ranks[rung] = short, answer["ms"]
                return not short

            rung = climb(len(ladder), self._rungs[kind], reaches)
        self._rungs[kind] = rung
        return ladder[rung], ranks[rung]

    def _measure(
        self, bucket: Bucket, store: str, uri: str, task: Task, param: dict[str, Any]
    ) -> dict[str, dict[str, Any]]:
        """Return the row of each state: first answers of new processes, and a second pass over queries."""
        n = min(self._n_warm, len(task.queries))
        cold = [
            self._ask(bucket, store, uri, task, param, [number], 1)
            for number in range(min(self._cold_runs, len(task.queries)))
        ]
        warm = self._ask(bucket, store, uri, task, param, list(range(n)), 3)
        versions = self._kept.notes.setdefault("versions", {})
        versions["vstore" if store == "vstore" else "lancedb"] = warm["version"]
        if store == "vstore" and task.name == "none 1%":
            self._kept.notes["receipt"] = cold[0]["receipts"][0]
        row = {"filter": task.name, "store": store, "param": param}
        cold_ids = [answer["ids"][0] for answer in cold]
        return {
            "cold": {
                **row,
                "state": "cold",
                "recall": recall_of(self._dataset, task, cold_ids),
                "ms": statistics.median(answer["passes_ms"][0][0] for answer in cold),
                "import_ms": statistics.median(answer["import_ms"] for answer in cold),
                "process_ms": statistics.median(a["passes_ms"][0][0] + a["import_ms"] for a in cold),
            },
            "warm": {
                **row,
                "state": "warm",
                "recall": recall_of(self._dataset, task, warm["ids"]),
                "ms": statistics.median(warm["passes_ms"][-1]),
                "first_pass_ms": statistics.median(warm["passes_ms"][0][1:] or warm["passes_ms"][0]),
            },
        }

    def _ask(
        self,
        bucket: Bucket,
        store: str,
        uri: str,
        task: Task,
        param: dict[str, Any],
        rows: list[int],
        passes: int,
    ) -> dict[str, Any]:
        return _answer(*self._order(bucket, store, uri, task, param, rows, passes))

    def _order(
        self,
        bucket: Bucket,
        store: str,
        uri: str,
        task: Task,
        param: dict[str, Any],
        rows: list[int],
        passes: int,
    ) -> tuple[list[str], dict[str, Any]]:
        order: dict[str, Any] = {
            "do": "ask",
            "queries": str(self._queries),
            "rows": [row for row in rows if row < len(task.queries)],
            "uri": uri,
            "k": K,
            "param": param,
            "passes": passes,
        }
        here = Path(__file__).parent
        if store == "vstore":
            command = [sys.executable, str(here / "remote_vstore.py")]
            order |= {"options": bucket.far_options, "clause": task.clause, "ready": str(self._ready)}
        else:
            assert self._python is not None
            command = [self._python, str(here / "remote_lancedb.py")]
            where = f"{task.clause[0]} <= {task.clause[1]}" if task.clause else ""
            order |= {"storage_options": bucket.lance_options(), "where": where}
        return command, order

    def _built(self, kind: str, grid: Grid) -> Path | None:
        """Return the folder of the kept table, built first where there is none; None without lancedb."""
        assert self._python is not None
        name, n = self._dataset.name, len(self._dataset.points)
        full = {"fashion": 60_000, "clustered": 1_000_000}.get(name)
        folder = root() / f"os-lancedb-{name if n == full else f'{name}-{n}'}-{kind}"
        if folder.exists():
            return folder
        columns = {field: str(grid.folder / f"{field}.npy") for field in ("near", "far", "none")}
        unfinished = folder.with_name(f"{folder.name}.{uuid.uuid4().hex}.part")
        order = {
            "do": "build",
            "points": str(self._dataset.folder / "X.npy"),
            "columns": columns,
            "folder": str(unfinished),
            "kind": kind,
        }
        try:
            _answer([self._python, str(Path(__file__).parent / "remote_lancedb.py")], order)
        except subprocess.CalledProcessError as error:
            if "No module named 'lancedb'" in (error.stderr or ""):
                print("lancedb is not installed there: left out", file=sys.stderr)
                return None
            raise
        unfinished.rename(folder)
        return folder


def _answer(command: list[str], order: dict[str, Any]) -> dict[str, Any]:
    done = subprocess.run(command, input=json.dumps(order), capture_output=True, text=True)
    if done.returncode:
        print(done.stderr[-2000:], file=sys.stderr)
        raise subprocess.CalledProcessError(done.returncode, command[1], done.stdout, done.stderr)
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found
