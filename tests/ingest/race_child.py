"""A process that writes to a store through the public face and says what was acknowledged.

Fenced by another, it takes the collection back. It ends after `n` acknowledged writes, or is killed.
"""

from __future__ import annotations

import json
import sys

import numpy as np

import vstore
from vstore.errors import StorageError, WriterFenced

ROWS = 5


def main(uri: str, options: dict[str, str], first: int, n: int) -> None:
    settings = vstore.Settings(memtable_rows=60, n_threads=1, retention_s=0.0)
    db = vstore.connect(uri, settings=settings, **options)
    collection = db.collection("c")
    print("ready", flush=True)
    sys.stdin.readline()
    stamp = first
    while stamp < first + n:
        ids = list(range(stamp * ROWS, (stamp + 1) * ROWS))
        try:
            collection.upsert(ids, np.full((ROWS, 4), stamp, np.float32), {"v": [stamp] * ROWS})
            if stamp % 4 == 3:
                collection.delete(ids=ids[:1])
                print("without", stamp, flush=True)
            else:
                print("wrote", stamp, flush=True)
            stamp += 1
        except WriterFenced:
            collection = db.collection("c")
        except StorageError as error:
            # Not acknowledged: it is repeated under the same ids.
            print("failed", type(error).__name__, flush=True)
            collection = db.collection("c")
    print("fenced out", flush=True)


if __name__ == "__main__":
    main(sys.argv[1], json.loads(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4]))
