"""Receipts and hits that are made when they are looked at are the values that they would have been."""

from __future__ import annotations

import copy
import dataclasses
import pickle
import threading

import numpy as np
import pytest

import vstore
from vstore.types import Hit, Hits, Receipt

KNOWN = {"plan": "scan: few", "n_rows": 7, "timings_ms": {"filter": 0.5}}


def state(values=KNOWN):
    return {f.name: getattr(Receipt(**values), f.name) for f in dataclasses.fields(Receipt)}


class Rows:
    """Three hits, and how often they were made."""

    def __init__(self):
        self.made = 0

    def __len__(self):
        return 3

    def ids(self):
        return [5, 6, 7]

    def scores(self):
        return np.array([3, 2, 1], dtype=np.float32)

    def hits(self):
        self.made += 1
        return [Hit(5 + i, 3.0 - i, float(i), {}, None, 3.0 - i, i) for i in range(3)]


def test_a_late_receipt_is_the_receipt():
    made = []
    late = Receipt.later(lambda: made.append(1) or state())
    assert made == []
    assert late.n_rows == 7
    assert (late, late.as_dict(), repr(late)) == (
        Receipt(**KNOWN),
        Receipt(**KNOWN).as_dict(),
        repr(Receipt(**KNOWN)),
    )
    assert made == [1]
    late.timings_ms["rerank"] = 1.0
    assert late.timings_ms == {"filter": 0.5, "rerank": 1.0}


@pytest.mark.parametrize("copied", [copy.copy, copy.deepcopy, lambda r: pickle.loads(pickle.dumps(r))])
def test_a_late_receipt_is_copied_filled(copied):
    assert copied(Receipt.later(state)) == Receipt(**KNOWN)
    assert copied(Receipt(**KNOWN)) == Receipt(**KNOWN)


def test_what_was_set_before_the_first_look_stays():
    late = Receipt.later(state)
    late.rerank = ["a report"]
    assert late.n_rows == 7
    assert late.rerank == ["a report"]


def test_a_receipt_has_its_fields_only():
    for receipt in (Receipt.later(state), Receipt()):
        with pytest.raises(AttributeError, match="nothing"):
            _ = receipt.nothing
        with pytest.raises(AttributeError):
            receipt.nothing = 1


def test_threads_may_read_a_late_receipt_together():
    for _ in range(50):
        late = Receipt.later(state)
        seen = []
        threads = [
            threading.Thread(target=lambda r=late, out=seen: out.append(r.as_dict())) for _ in range(4)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert seen == [Receipt(**KNOWN).as_dict()] * 4


def test_hits_are_made_once_and_on_demand():
    rows = Rows()
    hits = Hits(rows, Receipt())
    assert (len(hits), hits.ids, hits.scores.tolist(), rows.made) == (3, [5, 6, 7], [3.0, 2.0, 1.0], 0)
    assert hits[0].id == 5
    assert hits.hits is hits.hits
    assert [hit.first_rank for hit in hits] == [0, 1, 2]
    assert rows.made == 1
    assert hits == vstore.Hits(Rows().hits(), Receipt())
    assert pickle.loads(pickle.dumps(Hits(Rows(), Receipt()))) == hits
    hits[0].score = -1.0
    assert hits.scores[0] == -1


def test_hits_can_be_replaced():
    hits = Hits(Rows(), Receipt())
    hits.hits = hits.hits[1:]
    assert hits.ids == [6, 7]
