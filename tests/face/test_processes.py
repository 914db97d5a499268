"""A folder written by one process is read by another."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
from face_data import clustered

import vstore
from vstore import F

READER = """
import json, sys
import numpy as np
import vstore
from vstore import F

db = vstore.connect(sys.argv[1], read_only=True)
collection = db.collection("c")
query = np.frombuffer(bytes.fromhex(sys.argv[2]), dtype=np.float32)
hits = collection.search(query, k=5, filter=F.even == True)
print(json.dumps({
    "ids": hits.ids,
    "scores": hits.scores.tolist(),
    "attributes": [hit.attributes for hit in hits],
    "texts": [hit.document["text"] for hit in hits],
    "count": collection.count(),
    "plan": hits.receipt.plan,
    "read": hits.receipt.bytes_fetched,
}))
"""


def test_another_process_answers_from_disk(tmp_path: Path):
    vectors = clustered(3_000, 16, 1)
    query = clustered(1, 16, 2)[0]
    with vstore.connect(tmp_path / "store") as db:
        collection = db.create_collection("c", dim=16, fields={"even": "bool"})
        even = [i % 2 == 0 for i in range(3_000)]
        texts = [f"row {i}" for i in range(3_000)]
        collection.upsert(np.arange(2_500), vectors[:2500], {"even": even[:2500]}, texts[:2500])
        collection.flush()
        # These stay in the log: the reader replays them.
        collection.upsert(np.arange(2_500, 3_000), vectors[2500:], {"even": even[2500:]}, texts[2500:])
        collection.delete(ids=[0, 2999])
        mine = collection.search(query, k=5, filter=F.even == True)  # noqa: E712 - a filter, not a test
    ran = subprocess.run(
        [sys.executable, "-c", READER, str(tmp_path / "store"), query.tobytes().hex()],
        capture_output=True,
        text=True,
        check=True,
    )
    theirs = json.loads(ran.stdout)
    assert theirs["ids"] == mine.ids
    assert np.allclose(theirs["scores"], mine.scores, atol=1e-6)
    assert theirs["count"] == 2_998
    assert all(attributes == {"even": True} for attributes in theirs["attributes"])
    assert theirs["texts"] == [f"row {i}" for i in mine.ids]
    assert theirs["read"] > 0
