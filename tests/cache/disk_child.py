"""One of several processes that share a folder: puts and gets blocks that say themselves what they are.

Run as `python disk_child.py FOLDER LIMIT_BYTES SEED N_STEPS`; prints what it saw as JSON. It begins when
its standard input closes, so that all begin together.
"""

from __future__ import annotations

import json
import sys

import numpy as np

from vstore.cache import BlockKey, DiskTier


def body(block: int) -> bytes:
    return block.to_bytes(4, "little") * (50 + block % 60)


def main(folder: str, limit_bytes: int, seed: int, n_steps: int) -> None:
    tier = DiskTier(folder, limit_bytes)
    rng = np.random.default_rng(seed)
    most_bytes = n_wrong = 0
    sys.stdin.read()
    for _ in range(n_steps):
        blocks = rng.integers(0, 400, 5).tolist()
        tier.put_many([(BlockKey("s", "lists", block), body(block)) for block in blocks[:3]])
        keys = [BlockKey("s", "lists", block) for block in blocks]
        for block, data in zip(blocks, tier.get_many(keys), strict=True):
            n_wrong += data is not None and data != body(block)
        if rng.random() < 0.05:
            tier.drop(keys[0])
        with tier._alone():
            most_bytes = max(most_bytes, sum(size for _, size, _ in tier._files()))
    stats = tier.stats()
    print(
        json.dumps({"most": most_bytes, "wrong": n_wrong, "hits": stats.n_hits, "evicted": stats.n_evicted})
    )


if __name__ == "__main__":
    main(sys.argv[1], *(int(argument) for argument in sys.argv[2:5]))
