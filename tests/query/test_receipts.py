"""A receipt made from what is remembered is the receipt that is made anew."""

from __future__ import annotations

import numpy as np
import pytest

import vstore
from vstore.query import account as accounts
from vstore.query.account import Account
from vstore.query.memtable import MemtableWork
from vstore.shard.payload import PayloadRow, unpack_attributes, unpacker

DIM = 8
X = np.random.default_rng(6).standard_normal((900, DIM)).astype(np.float32)


@pytest.fixture(scope="module")
def held():
    with vstore.connect("memory://") as database:
        made = database.create_collection("c", dim=DIM, metric="cosine", fields={"year": "int"})
        for start in (0, 300, 600):
            made.upsert(
                range(start, start + 300), X[start : start + 300], {"year": [i % 5 for i in range(300)]}
            )
            made.flush()
        made.warm(False)
        made.search(X[0], k=900, recall=1.0)
        yield made


def account_of(hits):
    fill = object.__getattribute__(hits.receipt, "_fill")
    assert isinstance(fill.__self__, Account)
    return fill.__self__


@pytest.mark.parametrize("memtable", [False, True])
def test_what_is_remembered_is_what_is_made_anew(held, memtable):
    """Over filters, widths and queries; and nobody's changes reach the next."""
    if memtable:
        held.upsert([1000], X[:1], {"year": [3]})
    for filter in (None, {"year": 3}, {"year": 77}):
        for ef in (None, 40):
            for query in X[:6]:
                account = account_of(held.search(query, 7, filter, ef=ef))
                made = account._all_values()
                assert made["n_distances"] >= (0 if filter == {"year": 77} else 7)
                for _ in range(2):
                    told = account.values()
                    assert told == made
                    assert {name: type(told[name]) for name in told} == {n: type(made[n]) for n in made}
                    told["plans"].clear()
                    told["rerank"].append(1)
                    told["n_hops"] += 1


def test_few_are_remembered(held, monkeypatch):
    monkeypatch.setattr(accounts, "REMEMBERED_RECEIPTS", 1)
    account = account_of(held.search(X[0], 5, ef=33))
    account.n_memtable, account.memtable = 0, MemtableWork()
    for n_live in (5, 6, 7):
        account.n_live = n_live
        assert account.values() == account._all_values()
        assert len(account.planned[0].told) == 1


def test_attributes_are_unpacked_in_one_way():
    now = 1_700_000_000_000_000
    for fields in (
        (),
        (("a", "int"), ("b", "text")),
        (("a", "int"), ("at", "datetime")),
        ((None, "int"), ("b", "text")),
    ):
        for values in ([1, 2], [None, 2], [1, None], [now, now], [None, None]):
            row = PayloadRow(1, values[: len(fields)], None)
            told = unpacker(fields)(row)
            assert list(told.items()) == list(unpack_attributes(row, fields).items())
