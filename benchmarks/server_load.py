"""Load on a server, and what is measured of it; a program too, so that clients share no interpreter.

python -m benchmarks.server_load URL FILE N SECONDS [apart]

The N clients of vstore are tasks of one process that share one connection, as the threads share a client
that load the others' servers (`hammer`); each waits for its answer before it asks again. With "apart" each
has a connection of its own.
"""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

K = 10
CLIENTS = (1, 2, 4, 8, 16, 32)


def points(n: int, dim: int, seed: int) -> np.ndarray:
    """float32[n, dim] of 24 intrinsic dimensions around 200 clusters."""
    shape = np.random.default_rng(11)
    directions, centers = shape.standard_normal((24, dim)), shape.standard_normal((200, 24)) * 1.2
    rng = np.random.default_rng([7, seed])
    latent = centers[rng.integers(0, 200, n)] + rng.standard_normal((n, 24))
    return (latent @ directions + 0.3 * rng.standard_normal((n, dim))).astype(np.float32)


def truth(vectors: np.ndarray, queries: np.ndarray) -> np.ndarray:
    """int64[m, K]: the rows of greatest cosine to each query."""
    unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    return np.argsort(-(queries @ unit.T), axis=1)[:, :K]


def hit_rate(found: Sequence[Any], right: np.ndarray) -> float:
    """The share of the true K that were found."""
    hits = [len(set(map(int, a)) & set(b.tolist())) for a, b in zip(found, right, strict=True)]
    return float(np.mean(hits)) / K


def latencies(ask: Callable[[np.ndarray], Any], queries: np.ndarray) -> list[float]:
    """Milliseconds of each call, one after the other."""
    spent = []
    for query in queries:
        started = time.perf_counter()
        ask(query)
        spent.append((time.perf_counter() - started) * 1e3)
    return spent


def percentiles(spent: Sequence[float]) -> dict[str, float]:
    """Median and 99th percentile."""
    return {"p50": float(np.percentile(spent, 50)), "p99": float(np.percentile(spent, 99))}


def hammer(
    make: Callable[[], Callable[[np.ndarray], Any]], queries: np.ndarray, n: int, seconds: float
) -> list[float]:
    """Ask from n threads for so long, each as soon as it was answered; return the milliseconds of all calls.

    Args:
        make: returns a thread's own way to ask.
        queries: float32[m, d]; threads begin at different ones.
        n: threads.
        seconds: how long.
    """
    spent: list[list[float]] = [[] for _ in range(n)]
    ready, failures = threading.Barrier(n), []

    def work(number: int) -> None:
        try:
            ask, at = make(), number * 37
            for _ in range(5):
                ask(queries[at % len(queries)])
            ready.wait()
            until = time.perf_counter() + seconds
            while (started := time.perf_counter()) < until:
                ask(queries[at % len(queries)])
                spent[number].append((time.perf_counter() - started) * 1e3)
                at += 1
        except BaseException as error:
            failures.append(error)
            ready.abort()

    threads = [threading.Thread(target=work, args=(number,)) for number in range(n)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if failures:
        raise failures[0]
    return [one for own in spent for one in own]


def load_line(
    url: str, queries: np.ndarray, right: np.ndarray, n: int, seconds: float, apart: bool = False
) -> dict[str, Any]:
    """Load a server of vstore from n clients of another process; QPS and milliseconds.

    Args:
        url: of the server.
        queries: float32[m, d].
        right: int64[m, K], the embedded store's answers; every answer is compared.
        n: clients.
        seconds: how long.
        apart: each has a connection of its own.
    """
    with tempfile.TemporaryDirectory() as place:
        file = Path(place) / "queries.npz"
        np.savez(file, queries=queries, right=right)
        command = [sys.executable, "-m", "benchmarks.server_load", url, str(file), str(n), str(seconds)]
        command += ["apart"] if apart else []
        ended = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    spent = json.loads(ended.stdout)
    return {"clients": n, "qps": len(spent) / seconds, **percentiles(spent)}


async def ask_for(
    url: str, queries: np.ndarray, right: np.ndarray, n: int, seconds: float, apart: bool = False
) -> list[float]:
    """Ask from n clients for so long, each as soon as it was answered; return all calls' milliseconds.

    A client is a task; all share one connection of `vstore.aio`, or each has its own.

    Raises:
        RuntimeError: an answer is not the embedded store's.
    """
    import vstore  # Who loads the others' servers need not have it.

    databases = [await vstore.aio.connect(url) for _ in range(n if apart else 1)]
    collections = [await database.collection("c") for database in databases]
    spent: list[float] = []
    begin, expected = asyncio.Barrier(n), [ids.tolist() for ids in right]

    async def client(number: int) -> None:
        at, collection = number * 37, collections[number % len(collections)]
        for _ in range(5):
            await collection.search(queries[at % len(queries)], K)
        await begin.wait()
        until = time.perf_counter() + seconds
        while (started := time.perf_counter()) < until:
            row = at % len(queries)
            ids = (await collection.search(queries[row], K)).ids
            spent.append((time.perf_counter() - started) * 1e3)
            if ids != expected[row]:
                raise RuntimeError(f"query {row}: {ids} came, not {expected[row]}")
            at += 1

    async with asyncio.TaskGroup() as clients:
        for number in range(n):
            clients.create_task(client(number))
    for database in databases:
        await database.close()
    return spent


def main() -> None:
    """Load a server from this process and print all milliseconds."""
    url, file, n, seconds = sys.argv[1], sys.argv[2], int(sys.argv[3]), float(sys.argv[4])
    given, apart = np.load(file), sys.argv[5:] == ["apart"]
    json.dump(asyncio.run(ask_for(url, given["queries"], given["right"], n, seconds, apart)), sys.stdout)


if __name__ == "__main__":
    main()
