"""LanceDB on object storage: builds its table in a folder, and answers queries from a bucket.

Imports numpy and lancedb alone, so it runs under an interpreter that has no vstore. As a program it reads one
order, a line of JSON, from standard input, as `build` or `ask` take it, and prints one answer.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

KINDS = ("IVF_PQ", "IVF_HNSW_SQ")


def build(order: dict[str, Any]) -> dict[str, Any]:
    """Write the table "rows" to a folder: vectors, int columns with bitmap indexes, and one vector index."""
    import lancedb
    import pyarrow as pa

    points = np.load(order["points"])
    columns = {name: np.load(path) for name, path in order["columns"].items()}
    n, dim = points.shape
    started = time.perf_counter()
    vectors = pa.FixedSizeListArray.from_arrays(pa.array(points.ravel()), dim)
    rows = pa.table({"row": np.arange(n), **columns, "vector": vectors})
    table = lancedb.connect(order["folder"]).create_table("rows", rows)
    # About a thousand rows a partition, so that few bytes of the index are read for a query.
    options: dict[str, Any] = {"num_partitions": max(1, n // 1_000)}
    if order["kind"] == "IVF_PQ":
        options["num_sub_vectors"] = dim // (8 if dim > 256 else 4)
    else:
        options = {"num_partitions": max(1, n // 50_000), "m": 16, "ef_construction": 200}
    table.create_index(metric="l2", vector_column_name="vector", index_type=order["kind"], **options)
    for name in columns:
        table.create_scalar_index(name, index_type="BITMAP")
    return {"build_s": time.perf_counter() - started, "version": lancedb.__version__, "options": options}


def ask(order: dict[str, Any]) -> dict[str, Any]:
    """Open the table and answer queries, each `passes` times; return ids and milliseconds of each.

    The first answer's time begins before the connection and ends with the rows' numbers, without imports.
    With "tune", settings come one a line from standard input instead, and each gets a line of one pass.
    """
    started = time.perf_counter()
    import lancedb

    imported = time.perf_counter()
    queries = np.load(order["queries"])[order["rows"]]
    ids: list[list[int]] = []
    passes: list[list[float]] = []
    opened = time.perf_counter()
    database = lancedb.connect(order["uri"], storage_options=order["storage_options"])
    table = database.open_table("rows")

    def one_pass(param: dict[str, Any], first_since: float) -> tuple[list[list[int]], list[float]]:
        ids, times = [], []
        for query in queries:
            since = time.perf_counter() if times else first_since
            asked = table.search(query).limit(order["k"]).select(["row", "_distance"])
            if order["where"]:
                asked = asked.where(order["where"], prefilter=True)
            asked = asked.nprobes(param["nprobes"]).refine_factor(param["refine"])
            if "ef" in param:
                asked = asked.ef(param["ef"])
            ids.append(asked.to_arrow()["row"].to_pylist())
            times.append((time.perf_counter() - since) * 1e3)
        return ids, times

    if order["do"] == "tune":
        for line in iter(sys.stdin.readline, ""):
            ids, times = one_pass(json.loads(line), time.perf_counter())
            print(json.dumps({"ids": ids, "ms": sorted(times)[len(times) // 2]}), flush=True)
        return {}
    for number in range(order["passes"]):
        ids, times = one_pass(order["param"], opened if number == 0 else time.perf_counter())
        passes.append(times)
    return {
        "import_ms": (imported - started) * 1e3,
        "passes_ms": passes,
        "ids": ids,
        "version": lancedb.__version__,
    }


def main() -> None:
    """Carry out the order."""
    order = json.loads(sys.stdin.readline())
    answer = build(order) if order["do"] == "build" else ask(order)
    if answer:
        print(json.dumps(answer))


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parent))
    main()
