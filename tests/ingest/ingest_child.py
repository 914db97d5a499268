"""A process that writes to a folder, says what was acknowledged, and waits to be killed."""

from __future__ import annotations

import sys

import numpy as np
from ingest_fakes import Place, rows_of

from vstore.storage.local import LocalStore


def main(folder: str) -> None:
    place = Place(store=LocalStore(folder), settings={"memtable_rows": 40})
    writer = place.writer()
    for stamp in range(10_000):
        writer.upsert(rows_of([stamp, stamp + 1, 1_000_000], stamp))
        print("upsert", stamp, flush=True)
        if stamp % 3 == 0:
            writer.delete(np.array([stamp]))
            print("delete", stamp, flush=True)


if __name__ == "__main__":
    main(sys.argv[1])
