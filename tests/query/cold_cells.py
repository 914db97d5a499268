"""One cell of a cold search's test: its recall against exact search, with every answer's reads counted."""

from __future__ import annotations

import numpy as np

import vstore


def recall_of_cell(store, asked, filter, k, cold, plan):
    """Return the mean recall of `asked` under `filter`, each by a handle of its own from `cold()`.

    Each answer must say `plan`, take three rounds at most, and read what its receipt says.
    """
    exact = vstore.connect(store).collection("c")
    found = []
    for query in asked:
        collection, counted = cold()
        before = counted.snapshot()
        answer = collection.search(query, k=k, filter=filter)
        seen, receipt = counted.delta(before), answer.receipt
        assert receipt.plan.startswith(f"{plan}: ") or f"{plan} on" in receipt.plan
        assert receipt.n_round_trips == seen.n_round_trips <= 3
        assert (receipt.n_requests, receipt.bytes_fetched) == (seen.n_requests, seen.bytes_fetched)
        wanted = exact.search(query, k=k, filter=filter, recall=1.0)
        last = wanted.scores[-1] - 1e-5 * abs(wanted.scores[-1])
        assert len(answer) == len(wanted)
        found.append(np.mean(answer.scores >= last))
    return float(np.mean(found))
