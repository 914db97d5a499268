"""vstore on object storage: answers queries from a bucket in a new process; orders as for remote_lancedb."""

from __future__ import annotations

import json
import sys
import time
from typing import Any

import numpy as np


def ask(order: dict[str, Any]) -> dict[str, Any]:
    """Open the collection and answer queries, each `passes` times; return ids and milliseconds of each.

    The first answer's time begins before the connection and ends with the keys. Imports, and the loading of
    compiled kernels, which a small store on this machine makes happen, are told apart.
    """
    started = time.perf_counter()
    import vstore
    import vstore.storage.s3

    settings = vstore.Settings(cold_plan="clusters")
    with vstore.open(order["ready"], "rows", read_only=True, settings=settings) as ready:
        zeros = np.ones(ready.schema.dim, np.float32)
        for cached in (False, True):
            ready.warm(progress=False) if cached else None
            ready.search(zeros, filter=vstore.F["none"] <= 5)
            ready.search(zeros)
    imported = time.perf_counter()
    queries = np.load(order["queries"])[order["rows"]]
    field, bound = order["clause"] or ("", 0)
    filter = vstore.F[field] <= bound if field else None
    ids: list[list[int]] = []
    passes: list[list[float]] = []
    receipts: list[dict[str, Any]] = []
    opened = time.perf_counter()
    collection = vstore.open(order["uri"], "rows", read_only=True, **order["options"])
    for number in range(order["passes"]):
        times, ids = [], []
        for query in queries:
            since = time.perf_counter() if times or number else opened
            hits = collection.search(query, k=order["k"], filter=filter, **order["param"])
            ids.append([int(key) for key in hits.ids])
            times.append((time.perf_counter() - since) * 1e3)
            if len(receipts) < 2:
                receipts.append(hits.receipt.as_dict())
        passes.append(times)
    collection.close()
    return {
        "import_ms": (imported - started) * 1e3,
        "passes_ms": passes,
        "ids": ids,
        "receipts": receipts,
        "version": vstore.__version__,
    }


if __name__ == "__main__":
    print(json.dumps(ask(json.load(sys.stdin))))
