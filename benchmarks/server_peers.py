"""Servers of others under the same load, run by an environment that has them; one line of JSON.

    python benchmarks/server_peers.py chromadb|milvus-lite FOLDER SECONDS

FOLDER holds rows.npz: vectors, queries, and the truth of the first queries. Clients are threads of one
process.
"""

from __future__ import annotations

import importlib.metadata
import json
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


def chromadb(folder: Path, vectors: np.ndarray) -> tuple[Callable[[np.ndarray], Any], Callable[[], None]]:
    """Start a chromadb server with the rows; return how to ask it, and how to end it."""
    import chromadb as chroma

    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = Path(sys.executable).with_name("chroma")
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
    hnsw = {"space": "cosine", "max_neighbors": M, "ef_construction": EF_CONSTRUCTION, "ef_search": EF}
    made = client.create_collection("rows", configuration={"hnsw": hnsw}, embedding_function=None)
    for at in range(0, len(vectors), BATCH):
        part = vectors[at : at + BATCH]
        made.add(ids=[str(i) for i in range(at, at + len(part))], embeddings=part)

    def ask(query: np.ndarray) -> Any:
        return made.query(query_embeddings=[query], n_results=K, include=["distances"])["ids"][0]

    def end() -> None:
        server.kill()
        server.wait()

    return ask, end


def milvus_lite(folder: Path, vectors: np.ndarray) -> tuple[Callable[[np.ndarray], Any], Callable[[], None]]:
    """Start milvus-lite with the rows; return how to ask it, and how to end it."""
    from pymilvus import DataType, MilvusClient

    client = MilvusClient(str(folder / "milvus.db"))
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
    client.load_collection("c")
    params = {"params": {"ef": EF}}

    def ask(query: np.ndarray) -> Any:
        return [hit["id"] for hit in client.search("c", [query], limit=K, search_params=params)[0]]

    return ask, client.close


def main() -> None:
    """Load one of them and print what came of it."""
    name, folder, seconds = sys.argv[1], Path(sys.argv[2]), float(sys.argv[3])
    rows = np.load(folder / "rows.npz")
    vectors, queries, right = rows["vectors"], rows["queries"], rows["truth"]
    started = time.perf_counter()
    ask, end = {"chromadb": chromadb, "milvus-lite": milvus_lite}[name](folder, vectors)
    loaded_s = time.perf_counter() - started
    try:
        recall = hit_rate([ask(query) for query in queries[: len(right)]], right)
        lines = []
        for n in CLIENTS:
            spent = hammer(lambda: ask, queries, n, seconds)
            lines.append({"clients": n, "qps": len(spent) / seconds, **percentiles(spent)})
    finally:
        end()
    version = importlib.metadata.version(name)
    print(
        json.dumps({"name": name, "version": version, "recall": recall, "load_s": loaded_s, "lines": lines})
    )


if __name__ == "__main__":
    main()
