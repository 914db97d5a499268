"""A long scan is cut where somebody may give up: the same hits, and nobody waits for more than one piece."""

from __future__ import annotations

import numpy as np
import pytest

import vstore
from vstore import F
from vstore.cancel import checking
from vstore.errors import QueryCancelled
from vstore.traverse import scan

N, DIM = 6000, 64


@pytest.fixture(scope="module")
def collection():
    rng = np.random.default_rng(5)
    centers = rng.standard_normal((30, DIM))
    rows = (centers[rng.integers(0, 30, N)] + 0.5 * rng.standard_normal((N, DIM))).astype(np.float32)
    with vstore.connect("memory://") as database:
        held = database.create_collection("c", dim=DIM, metric="l2", fields={"part": "int"})
        held.upsert(range(N), rows, {"part": np.arange(N) % 100})
        held.flush(False)
        held.warm(False)
        held.search(rows[0], k=N, recall=1.0)
        yield held, rows


@pytest.mark.parametrize("filter", [F.part == 3, F.part < 2])
def test_pieces_find_what_one_scan_finds(collection, monkeypatch, filter):
    held, rows = collection
    queries = rows[:40] + np.float32(0.05)
    whole = [held.search(query, 10, filter) for query in queries]
    assert {plan["traversal"] for hits in whole for plan in hits.receipt.plans} == {"scan"}
    monkeypatch.setattr(scan, "PIECE_ROWS", 17)
    looks = []
    with checking(lambda: looks.append(1)):
        pieces = [held.search(query, 10, filter) for query in queries]
        many = held.search_batch(queries, 10, filter)
    # Without anybody who could give up, one kernel call scans all.
    uncut = [held.search(query, 10, filter) for query in queries]
    assert len(looks) > 40 * 60 / 17
    for one, cut, again, row in zip(whole, pieces, uncut, many.ids.tolist(), strict=True):
        assert cut.hits == one.hits == again.hits
        assert cut.receipt.n_distances == one.receipt.n_distances
        assert row == one.ids


def test_who_gives_up_waits_for_one_piece(collection, monkeypatch):
    held, rows = collection
    monkeypatch.setattr(scan, "PIECE_ROWS", 17)
    sizes = []
    whole = scan.scan_codes

    def scanned(code, tables, ids, *arguments):
        sizes.append(len(ids))
        return whole(code, tables, ids, *arguments)

    monkeypatch.setattr(scan, "scan_codes", scanned)

    def given_up():
        if len(sizes) == 3:
            raise QueryCancelled("nobody waits")

    with checking(given_up), pytest.raises(QueryCancelled):
        held.search(rows[0], 10, F.part == 3)
    assert sizes == [17, 17, 17]
    sizes.clear()
    with checking(lambda: None):
        held.search(rows[0], 10, F.part == 3)
    assert sum(sizes[:-1]) == N // 100
    assert max(sizes[:-1]) == 17
