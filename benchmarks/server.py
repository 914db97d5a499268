"""The server against the embedded store, and against servers of others, on one machine in one run.

    python -m benchmarks.server [--quick] [--peers] [--peers-python PYTHON]

Embedded and server answer the same queries in turns; medians of the turns count. "Embedded, two threads"
is what two Python threads get from `collection.search`, one query a call. Load comes from the Python
clients of each system, in a process beside the server's, and shares one client: tasks of `vstore.aio`, each
of whose answers is compared with the embedded store's; threads for the others. Sixteen tasks with a
connection each are measured too. With --peers a chromadb server and milvus-lite are loaded in the same way
with the same rows (`server_peers.py`, run by --peers-python, which has them). What is built of the rows is
kept in the cache of data sets. Prints every floor with its ratio; writes JSON and a picture of latency
against load.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

import vstore
import vstore_server
from vstore_server.__main__ import settle_memory

from .datasets import cache
from .report import RESULTS, machine, print_table, versions
from .server_load import CLIENTS, K, hit_rate, latencies, load_line, percentiles, points, truth

FLOOR_EXTRA_MS = 0.6
FLOOR_QPS = 0.6
FLOOR_TAIL = 10.0
FLOOR_UPSERT = 0.6
TURNS = 5


def serve(folder: str) -> None:
    """Serve a folder with everything in memory until standard input ends."""
    with vstore.connect(folder) as database:
        warmed(database.collection("c"))
        settle_memory()
        with vstore_server.BackgroundServer(database) as server:
            print(server.url, flush=True)
            sys.stdin.read()


def warmed(collection: vstore.Collection) -> vstore.Collection:
    """Read lists, codes, exact vectors and payload of a collection into memory."""
    collection.warm(False)
    collection.search(np.ones(collection.schema.dim, np.float32), k=len(collection), recall=1.0)
    return collection


@contextlib.contextmanager
def served(folder: str) -> Iterator[str]:
    """Run a server on a folder in a process of its own, and yield its url."""
    process = subprocess.Popen(
        [sys.executable, "-m", "benchmarks.server", "--serve", folder],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    try:
        yield process.stdout.readline().strip()
    finally:
        process.kill()
        process.wait()


def two_threads(collection: vstore.Collection, queries: np.ndarray, seconds: float) -> float:
    """Return the searches a second of two threads that each ask one query after the other."""
    counts, until = [0, 0], time.perf_counter() + seconds

    def ask(number: int) -> None:
        at = number * len(queries) // 2
        while time.perf_counter() < until:
            _ = collection.search(queries[at % len(queries)], K).ids
            at += 1
            counts[number] += 1

    threads = [threading.Thread(target=ask, args=(number,)) for number in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return sum(counts) / seconds


def one_client(embedded: Any, remote: Any, queries: np.ndarray) -> dict[str, Any]:
    """Measure searches of one caller, embedded and through the server in turns."""
    rows = []
    for turn in range(TURNS + 1):
        pair = [
            percentiles(latencies(lambda q, c=one: c.search(q, K).ids, queries)) for one in (embedded, remote)
        ]
        if turn:
            rows.append({"embedded": pair[0], "server": pair[1]})
    extra_ms = statistics.median(row["server"]["p50"] - row["embedded"]["p50"] for row in rows)
    return {
        "embedded_p50_ms": statistics.median(row["embedded"]["p50"] for row in rows),
        "server_p50_ms": statistics.median(row["server"]["p50"] for row in rows),
        "extra_p50_ms": extra_ms,
        "turns": rows,
    }


def under_load(embedded: Any, url: str, queries: np.ndarray, seconds: float) -> dict[str, Any]:
    """Measure two threads embedded, and so many clients of the server, in turns; then each load once."""
    right = np.array([embedded.search(query, K).ids for query in queries])
    turns = []
    for _ in range(3):
        own = two_threads(embedded, queries, seconds)
        turns.append({"embedded_qps": own, **load_line(url, queries, right, 16, seconds)})
    lines = [load_line(url, queries, right, n, seconds) for n in CLIENTS]
    ratio = statistics.median(turn["qps"] / turn["embedded_qps"] for turn in turns)
    batch = statistics.median(batch_qps(embedded, queries) for _ in range(3))
    return {
        "embedded_two_threads_qps": statistics.median(turn["embedded_qps"] for turn in turns),
        "embedded_batch_qps": batch,
        "qps_16": statistics.median(turn["qps"] for turn in turns),
        "qps_ratio": ratio,
        "tail_ratio": statistics.median(turn["p99"] / turn["p50"] for turn in turns),
        "turns": turns,
        "lines": lines,
        "apart_16": load_line(url, queries, right, 16, seconds, apart=True),
    }


def batch_qps(collection: Any, queries: np.ndarray) -> float:
    """Return the queries a second of one `search_batch`."""
    started = time.perf_counter()
    collection.search_batch(queries, K)
    return len(queries) / (time.perf_counter() - started)


def upserts(url: str, vectors: np.ndarray) -> dict[str, Any]:
    """Measure rows a second into a memtable: embedded, and as a stream, in turns."""
    batches = [
        (np.arange(at, min(at + 1000, len(vectors))), vectors[at : at + 1000])
        for at in range(0, len(vectors), 1000)
    ]
    turns = []
    settings = vstore.Settings(memtable_rows=10 * len(vectors))
    with (
        tempfile.TemporaryDirectory() as folder,
        vstore_server.connect(url) as server,
        vstore.connect(folder, settings=settings) as database,
    ):
        for turn in range(TURNS):
            own = database.create_collection(f"u{turn}", dim=vectors.shape[1])
            other = server.create_collection(f"u{turn}", dim=vectors.shape[1])
            started = time.perf_counter()
            for batch in batches:
                own.upsert(*batch)
            between = time.perf_counter()
            n_written = sum(other.upsert_stream(batches))
            ended = time.perf_counter()
            if n_written != len(vectors):
                raise RuntimeError(f"{n_written} rows were acknowledged, not {len(vectors)}")
            turns.append([len(vectors) / (between - started), len(vectors) / (ended - between)])
            server.drop_collection(f"u{turn}")
    return {
        "embedded_rows_s": statistics.median(turn[0] for turn in turns),
        "server_rows_s": statistics.median(turn[1] for turn in turns),
        "ratio": statistics.median(turn[1] / turn[0] for turn in turns),
    }


def peers(python: str, folder: Path, seconds: float) -> list[dict[str, Any]]:
    """Load the servers of others, by a program of their own environment, and return its lines."""
    found = []
    for name in ("chromadb", "milvus-lite"):
        command = [python, str(Path(__file__).parent / "server_peers.py"), name, str(folder), str(seconds)]
        ended = subprocess.run(command, capture_output=True, text=True, check=False)
        if ended.returncode:
            print(f"{name} did not run: {ended.stderr.strip().splitlines()[-1:]}")
            found.append({"name": name, "failed": ended.stderr[-2000:]})
        else:
            found.append(json.loads(ended.stdout.strip().splitlines()[-1]))
    return found


def build(folder: Path, vectors: np.ndarray) -> None:
    """Write the rows as one shard."""
    with vstore.connect(
        folder / "data", settings=vstore.Settings(memtable_rows=len(vectors) + 1)
    ) as database:
        made = database.create_collection("c", dim=vectors.shape[1], metric="cosine", fields={"year": "int"})
        for at in range(0, len(vectors), 20_000):
            rows = np.arange(at, min(at + 20_000, len(vectors)))
            made.upsert(rows, vectors[rows], {"year": rows % 50})
        made.flush()


def built(n: int, dim: int, vectors: np.ndarray) -> Path:
    """Return the folder of this many rows and of what is made of them, kept between runs."""
    kept = cache.root() / f"server-{n}x{dim}"
    if not (kept / "done").exists():
        print(f"building {n} x {dim}", flush=True)
        shutil.rmtree(kept / "data", ignore_errors=True)
        kept.mkdir(parents=True, exist_ok=True)
        build(kept, vectors)
        (kept / "done").touch()
    return kept


def run(options: argparse.Namespace) -> dict[str, Any]:
    """Measure everything and return it."""
    n, dim, seconds = (10_000, 64, 1.0) if options.quick else (100_000, 384, 3.0)
    vectors, queries = points(n, dim, 0), points(400 if options.quick else 1_000, dim, 1)
    with tempfile.TemporaryDirectory() as place:
        folder, kept = Path(place), built(n, dim, vectors)
        # What is measured writes, too.
        shutil.copytree(kept / "data", folder / "data")
        with served(str(folder / "data")) as url, vstore.connect(folder / "data", read_only=True) as database:
            embedded = warmed(database.collection("c"))
            remote = vstore_server.connect(url).collection("c")
            right = truth(vectors, queries[:100])
            result: dict[str, Any] = {
                "rows": n,
                "dim": dim,
                "recall": hit_rate([remote.search(q, K).ids for q in queries[:100]], right),
                "one_client": one_client(embedded, remote, queries[:300]),
                "load": under_load(embedded, url, queries, seconds),
                "upsert": upserts(url, vectors[:10_000]),
            }
        if options.peers:
            np.savez(kept / "rows.npz", vectors=vectors, queries=queries, truth=right)
            result["peers"] = peers(options.peers_python, kept, seconds)
    return {"machine": machine(), "versions": versions(), **result}


def floors(result: dict[str, Any]) -> list[list[str]]:
    """Return the lines of the table of floors."""
    one, load, upsert = result["one_client"], result["load"], result["upsert"]
    rows: list[tuple[str, float, str, bool]] = []

    def most(name: str, value: float, limit: float) -> None:
        rows.append((name, value, f"<= {limit:g}", value <= limit))

    def least(name: str, value: float, limit: float) -> None:
        rows.append((name, value, f">= {limit:g}", value >= limit))

    most("server p50 - embedded p50, ms", one["extra_p50_ms"], FLOOR_EXTRA_MS)
    least("QPS of 16 clients / embedded, two threads", load["qps_ratio"], FLOOR_QPS)
    most("p99 / p50 of 16 clients", load["tail_ratio"], FLOOR_TAIL)
    least("streamed rows/s / embedded", upsert["ratio"], FLOOR_UPSERT)
    for peer in result.get("peers", ()):
        line = next((line for line in peer.get("lines", ()) if line["clients"] == 16), None)
        if line is not None:
            ratio = load["qps_16"] / line["qps"]
            rows.append(
                [f"QPS of 16 clients / {peer['name']} (recall {peer['recall']:.3f})", ratio, "> 1", ratio > 1]
            )
    return [
        [str(name), f"{value:.2f}", floor, "yes" if holds else "NO"] for name, value, floor, holds in rows
    ]


def draw(result: dict[str, Any], path: Path) -> None:
    """Draw latency against load."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 4.5))
    axes = figure.subplots()
    systems = [("vstore", result["load"]["lines"])]
    systems += [(peer["name"], peer["lines"]) for peer in result.get("peers", ()) if "lines" in peer]
    for number, (name, lines) in enumerate(systems):
        qps = [line["qps"] for line in lines]
        axes.plot(qps, [line["p50"] for line in lines], f"C{number}o-", label=f"{name}, p50")
        axes.plot(qps, [line["p99"] for line in lines], f"C{number}s--", label=f"{name}, p99")
        for line in lines:
            axes.annotate(str(line["clients"]), (line["qps"], line["p50"]), fontsize=7)
    axes.set(xscale="log", yscale="log", xlabel="queries a second", ylabel="ms")
    axes.set_title(f"{result['rows']:,} x {result['dim']}, k = {K}; numbers are clients")
    axes.legend()
    axes.grid(alpha=0.3)
    figure.savefig(path, dpi=120, bbox_inches="tight")


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="10,000 x 64, a second each")
    parser.add_argument("--peers", action="store_true", help="load chromadb and milvus-lite too")
    parser.add_argument("--peers-python", default=sys.executable, help="the Python that has them")
    parser.add_argument(
        "--out", help="folder of JSON and picture; default: benchmarks/results, of a full run"
    )
    parser.add_argument("--serve", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.serve:
        serve(options.serve)
        return
    result = run(options)
    one, load = result["one_client"], result["load"]
    print(
        f"one client: embedded {one['embedded_p50_ms']:.3f} ms, server {one['server_p50_ms']:.3f} ms at p50"
    )
    print(
        f"embedded QPS: two threads {load['embedded_two_threads_qps']:.0f}, one batch "
        f"{load['embedded_batch_qps']:.0f}; 16 clients {load['qps_16']:.0f}, each with a connection of its "
        f"own {load['apart_16']['qps']:.0f}; recall {result['recall']:.3f}"
    )
    systems = [("vstore", load["lines"])] + [(p["name"], p.get("lines", [])) for p in result.get("peers", ())]
    rows = [
        [name, str(line["clients"]), f"{line['qps']:.0f}", f"{line['p50']:.2f}", f"{line['p99']:.2f}"]
        for name, lines in systems
        for line in lines
    ]
    print_table(["system", "clients", "QPS", "p50 ms", "p99 ms"], rows)
    print_table(["floor", "measured", "wanted", "holds"], floors(result))
    out = Path(options.out) if options.out else None if options.quick else RESULTS
    if out is not None:
        out.mkdir(parents=True, exist_ok=True)
        (out / "server.json").write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
        draw(result, out / "server.png")


if __name__ == "__main__":
    main()
