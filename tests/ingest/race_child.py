"""Processes that write to a store through the public face and say what was acknowledged.

Started with arguments, one process: fenced by another, it takes the collection back. It ends after `n`
acknowledged writes. Started as `race_child.py nursery`, it forks such writers on request, so that hundreds
of them can be killed without paying for as many imports.
"""

from __future__ import annotations

import faulthandler
import json
import os
import signal
import sys

import numpy as np

import vstore
from vstore.errors import InvalidInput, StorageError, WriterFenced

ROWS = 5
UPDATED = 1_000_000
"""What an update of a stamp's rows adds to their attribute."""
STUCK_S = 20
"""Who has not opened the collection after so long says where it waits."""


def say(*words: object) -> None:
    """One line, by one system call: a kill leaves it whole or absent."""
    os.write(1, (" ".join(map(str, words)) + "\n").encode())


def write(collection: vstore.Collection, stamp: int) -> None:
    """One acknowledged write, and often something else that a kill may interrupt."""
    ids = list(range(stamp * ROWS, (stamp + 1) * ROWS))
    collection.upsert(ids, np.full((ROWS, 4), stamp, np.float32), {"v": [stamp] * ROWS})
    say("wrote", stamp)
    if stamp % 4 == 3:
        collection.delete(ids=ids[:1])
        say("without", stamp)
    if stamp % 6 == 5:
        collection.update(ids[1:], {"v": [stamp + UPDATED] * (ROWS - 1)})
        say("updated", stamp)
    if stamp % 16 == 15:
        collection.tag(f"t{stamp}")
        say("tagged", stamp)
    if stamp % 24 == 23:
        collection.compact(progress=False)


def run(uri: str, options: dict[str, str], first: int, n: int) -> None:
    settings = vstore.Settings(memtable_rows=60, n_threads=1, retention_s=0.0)
    faulthandler.dump_traceback_later(STUCK_S, repeat=True)
    db = vstore.connect(uri, settings=settings, **options)
    collection = db.collection("c")
    faulthandler.cancel_dump_traceback_later()
    say("ready")
    stamp = first
    while stamp < first + n:
        try:
            write(collection, stamp)
            stamp += 1
        except InvalidInput:
            # Its tag is there, from before it was fenced.
            stamp += 1
        except WriterFenced:
            say("fenced", stamp)
            collection = db.collection("c")
        except StorageError as error:
            # Not acknowledged: it is repeated under the same ids.
            say("failed", type(error).__name__)
            collection = db.collection("c")
    db.close()
    say("fenced out")


def nursery() -> None:
    """For each line (uri, options, first, n, file) fork a writer that says to the file; say pid and end."""
    for line in sys.stdin:
        uri, options, first, n, out = json.loads(line)
        pid = os.fork()
        if pid == 0:
            os.dup2(os.open(out, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), 1)
            run(uri, options, first, n)
            os._exit(0)
        say(pid)
        _, status = os.waitpid(pid, 0)
        say("killed" if os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL else status)


if __name__ == "__main__":
    if sys.argv[1:] == ["nursery"]:
        nursery()
    else:
        run(sys.argv[1], json.loads(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4]))
