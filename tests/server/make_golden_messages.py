"""Writes the golden messages that are not there yet; those that are stay as they were first written."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path

import numpy as np

from vstore.format.frame import encode_frame, pack
from vstore.rerank.stored import MAGIC
from vstore_server.codec import encode

PLACE = Path(__file__).resolve().parent / "golden_messages.json"
QUERY = np.array([0.5, -1.25], dtype=np.float32)
VECTORS = np.array([[0.5, -1.25], [3.0, 4.0]], dtype=np.float32)

FUSION = encode_frame(MAGIC, pack({"model": "trees", "signals": [["vector", {"kind": "vector"}]]}))
"""A fusion as it is stored."""

REQUESTS = {
    "Connect": {},
    "ListCollections": {},
    "CreateCollection": {
        "name": "g",
        "dim": 2,
        "metric": "l2",
        "fields": {"year": "int", "taken": "datetime"},
    },
    "Describe": {"collection": "g"},
    "Upsert": {
        "collection": "g",
        "ids": np.array([1, 2]),
        "vectors": VECTORS,
        "attributes": {
            "year": np.array([2020, 2021]),
            "taken": [datetime(2024, 5, 31, 12, 0, 0, 250_000, UTC), None],
        },
        "documents": [{"text": "é"}, {"image": b"\x89PNG"}],
        "idempotency_key": "golden",
    },
    "UpsertStream": {
        "batch": 7,
        "collection": "g",
        "ids": [3],
        "vectors": VECTORS[:1],
        "attributes": [{"year": 1}],
    },
    "Get": {"collection": "g", "ids": [2, 9, 1]},
    "Count": {"collection": "g", "filter": {"year": {"$gte": 2021}}},
    "Search": {
        "collection": "g",
        "query": QUERY,
        "k": 2,
        "filter": {"year": {"$gt": 1}},
        "recall": 1.0,
        "ef": None,
    },
    "SearchBatch": {"collection": "g", "queries": VECTORS, "k": 2},
    "Explain": {"collection": "g", "query": QUERY},
    "Refresh": {"collection": "g"},
    "Flush": {"collection": "g"},
    "Warm": {"collection": "g"},
    "Compact": {"collection": "g"},
    "Delete": {"collection": "g", "ids": np.array([1])},
    "Update": {"collection": "g", "ids": [2], "attributes": [{"year": None}], "missing": "ignore"},
    "Scan": {"collection": "g", "filter": {"year": {"$eq": 1}}},
    "AddField": {"collection": "g", "name": "price", "type": "float"},
    "DropField": {"collection": "g", "name": "price"},
    "Tag": {"collection": "g", "tag": "golden"},
    "Snapshots": {"collection": "g"},
    "Restore": {"collection": "g", "at": "golden"},
    "Untag": {"collection": "g", "tag": "golden"},
    "PutFusion": {"collection": "g", "name": "best", "data": FUSION},
    "Fusions": {"collection": "g"},
    "GetFusion": {"collection": "g", "name": "best"},
    "DeleteFusion": {"collection": "g", "name": "best"},
    "CollectGarbage": {"collection": "g", "dry_run": True},
    "Verify": {"collection": "g"},
    "DropCollection": {"collection": "g"},
}
"""One request of each method, in an order in which each succeeds."""

ANSWERS = {
    "Upsert": {"n_written": 2},
    "UpsertStream": {"batch": 7, "n_written": 1},
    "Get": {
        "found": np.array([True, False, True]),
        "ids": [2, 1],
        "vectors": VECTORS[::-1],
        "attributes": [
            {"year": 2021},
            {"year": 2020, "taken": datetime(2024, 5, 31, 12, 0, 0, 250_000, UTC)},
        ],
        "documents": [{"image": b"\x89PNG"}, {"text": "é"}],
    },
    "Count": {"count": 1},
    "Refresh": {},
    "Flush": {"result": None},
    "Delete": {"n_deleted": 1},
    "Update": {"n_written": 1},
    "Scan": {"ids": [3], "vectors": VECTORS[:1], "attributes": [{"year": 1}], "documents": [None]},
    "Untag": {},
    "PutFusion": {},
    "Fusions": {"names": ["best"]},
    "GetFusion": {"data": FUSION},
    "DeleteFusion": {},
    "DropCollection": {},
}
"""Answers that do not depend on time."""


def golden() -> dict[str, str]:
    """Every message by name, as hex."""
    named = {f"{name} request": encode(message).hex() for name, message in REQUESTS.items()}
    return named | {f"{name} answer": encode(message).hex() for name, message in ANSWERS.items()}


def main() -> None:
    held = json.loads(PLACE.read_text()) if PLACE.exists() else {}
    merged = {**golden(), **held}
    PLACE.write_text(json.dumps({name: merged[name] for name in golden()}, indent=1) + "\n")


if __name__ == "__main__":
    main()
