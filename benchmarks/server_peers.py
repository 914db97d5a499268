"""Servers of others under the same load, run by an environment that has them; one line of JSON.

    python benchmarks/server_peers.py chromadb|milvus-lite FOLDER SECONDS

FOLDER holds rows.npz: vectors, queries, and the truth of the first queries. What a system made of the rows
stays there, under its name and version, for the next run. Clients are threads of one process.
"""

from __future__ import annotations

import importlib.metadata
import json
import shutil
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from server_load import CLIENTS, K, hammer, hit_rate, percentiles

M, EF_CONSTRUCTION, EF = 16, 200, 64
BATCH = 2_000
DONE = "done"
"""The file that says that a folder holds all rows."""


def chromadb(folder: Path, vectors: np.ndarray) -> tuple[Callable[[np.ndarray], Any], Callable[[], None]]:
    """Start a chromadb server with the rows; return how to ask it, and how to end it."""
    import chromadb as chroma

    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command, built = Path(sys.executable).with_name("chroma"), (folder / DONE).exists()
    server = subprocess.Popen(
        [str(command), "run", "--path", str(folder / "chroma"), "--host", "127.0.0.1", "--port", str(port)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    client = None
    for _ in range(120):
        try:
            client = chroma.HttpClient(host="127.0.0.1", port=port)
            client.heartbeat()
            break
        except Exception:
            if server.poll() is not None:
                raise
            threading.Event().wait(0.5)
    if client is None:
        raise RuntimeError("the chromadb server did not answer for a minute")
    if built:
        made = client.get_collection("rows", embedding_function=None)
        return _asking_chroma(made, server)
    hnsw = {"space": "cosine", "max_neighbors": M, "ef_construction": EF_CONSTRUCTION, "ef_search": EF}
    made = client.create_collection("rows", configuration={"hnsw": hnsw}, embedding_function=None)
    for at in range(0, len(vectors), BATCH):
        part = vectors[at : at + BATCH]
        made.add(ids=[str(i) for i in range(at, at + len(part))], embeddings=part)
    return _asking_chroma(made, server)


def _asking_chroma(made: Any, server: Any) -> tuple[Callable[[np.ndarray], Any], Callable[[], None]]:
    def ask(query: np.ndarray) -> Any:
        return made.query(query_embeddings=[query], n_results=K, include=["distances"])["ids"][0]

    def end() -> None:
        # Not killed: what it still writes is wanted by the next run.
        server.terminate()
        server.wait()

    return ask, end


def milvus_lite(folder: Path, vectors: np.ndarray) -> tuple[Callable[[np.ndarray], Any], Callable[[], None]]:
    """Start milvus-lite with the rows; return how to ask it, and how to end it."""
    from pymilvus import MilvusClient

    client = MilvusClient(str(folder / "milvus.db"))
    if not (folder / DONE).exists():
        _fill_milvus(client, vectors)
    client.load_collection("c")
    params = {"params": {"ef": EF}}

    def ask(query: np.ndarray) -> Any:
        return [hit["id"] for hit in client.search("c", [query], limit=K, search_params=params)[0]]

    return ask, client.close


def _fill_milvus(client: Any, vectors: np.ndarray) -> None:
    from pymilvus import DataType

    schema = client.create_schema()
    schema.add_field("id", DataType.INT64, is_primary=True)
    schema.add_field("vector", DataType.FLOAT_VECTOR, dim=vectors.shape[1])
    index = client.prepare_index_params()
    index.add_index(
        "vector", index_type="HNSW", metric_type="COSINE", params={"M": M, "efConstruction": EF_CONSTRUCTION}
    )
    client.create_collection("c", schema=schema, index_params=index)
    for at in range(0, len(vectors), BATCH):
        part = vectors[at : at + BATCH]
        client.insert("c", [{"id": at + i, "vector": row} for i, row in enumerate(part)])


def main() -> None:
    """Load one of them and print what came of it."""
    name, folder, seconds = sys.argv[1], Path(sys.argv[2]), float(sys.argv[3])
    rows = np.load(folder / "rows.npz")
    vectors, queries, right = rows["vectors"], rows["queries"], rows["truth"]
    version = importlib.metadata.version(name)
    own = folder / f"{name}-{version}"
    if not (own / DONE).exists():
        shutil.rmtree(own, ignore_errors=True)
    own.mkdir(exist_ok=True)
    started = time.perf_counter()
    ask, end = {"chromadb": chromadb, "milvus-lite": milvus_lite}[name](own, vectors)
    from_cache, loaded_s = (own / DONE).exists(), time.perf_counter() - started
    if from_cache:
        loaded_s = float((own / DONE).read_text())
    else:
        (own / DONE).write_text(f"{loaded_s:.1f}\n")
    try:
        recall = hit_rate([ask(query) for query in queries[: len(right)]], right)
        lines = []
        for n in CLIENTS:
            spent = hammer(lambda: ask, queries, n, seconds)
            lines.append({"clients": n, "qps": len(spent) / seconds, **percentiles(spent)})
    finally:
        end()
    line = {"name": name, "version": version, "recall": recall, "load_s": loaded_s, "lines": lines}
    print(json.dumps({**line, "from_cache": from_cache}))


if __name__ == "__main__":
    main()
