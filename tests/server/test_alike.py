"""Many alike: requests that differ in the vector alone, receipts packed by parts, small answers unscanned."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import vstore
from vstore.errors import InvalidInput
from vstore.serving import answer_from_memory, checked_search, receipt_parts
from vstore_server import messages, shown
from vstore_server.alike import MOST_KINDS, Kinds
from vstore_server.auth import ANYBODY
from vstore_server.callstream import method_of, timeout_of
from vstore_server.codec import SMALL_BYTES, Limits, decode, decode_small, encode
from vstore_server.errors import LimitExceeded, MalformedMessage
from vstore_server.methods import Call
from vstore_server.plain import plain_search
from vstore_server.service import Service

DIM = 8
X = np.random.default_rng(5).standard_normal((900, DIM)).astype(np.float32)


@pytest.fixture(scope="module")
def held():
    with vstore.connect("memory://") as database:
        made = database.create_collection("c", dim=DIM, metric="l2", fields={"year": "int"})
        made.upsert(range(600), X[:600], {"year": [i % 7 for i in range(600)]})
        made.flush()
        made.warm(False)
        made.search(X[0], k=600, recall=1.0)
        yield made


def request(query, **fields):
    named = {"method": "Search", "collection": "c", "query": query, "k": 3, "recall": 0.95, "ef": None}
    return encode({**named, "timeout_ms": 60_000.0, **fields})


def read(data):
    """Return a request as the general way reads it."""
    message = decode(data, Limits())
    method_of(message)
    timeout_s = timeout_of(message)
    return message, plain_search(message, Limits()), timeout_s


def told(found):
    search, timeout_s = found
    return search.query.tolist(), search[0], search[2:], timeout_s


_FIELDS = st.fixed_dictionaries(
    {},
    optional={
        "k": st.integers(1, 20),
        "recall": st.sampled_from([0.5, 0.95]),
        "ef": st.sampled_from([None, 7]),
        "at_least": st.sampled_from([None, "1.2.3"]),
        "collection": st.sampled_from(["c", "d"]),
        "timeout_ms": st.sampled_from([5.0, 60_000.0]),
    },
)


@settings(max_examples=200, deadline=None)
@given(st.lists(_FIELDS, min_size=1, max_size=6), _FIELDS)
def test_what_is_known_is_read_as_it_would_be_anew(learned, asked):
    kinds = Kinds()
    for number, fields in enumerate(learned):
        data = request(X[number], **fields)
        kinds.learn(data, *read(data))
    data = request(X[100], **asked)
    found, (_, search, timeout_s) = kinds.find(data), read(data)
    if found is not None:
        assert told(found) == told((search, timeout_s))
    last = request(X[101], **learned[-1])
    again = kinds.find(last)
    assert again is not None
    assert told(again) == told(read(last)[1:])


@settings(max_examples=200, deadline=None)
@given(st.integers(0, 10_000), st.integers(0, 255))
def test_a_byte_beside_the_vector_makes_a_request_another(place, value):
    kinds = Kinds()
    data = request(X[0])
    kinds.learn(data, *read(data))
    other = bytearray(data)
    other[place % len(data)] = value
    start = data.index(X[0].tobytes())
    inside = start <= place % len(data) < start + 4 * DIM
    assert (kinds.find(bytes(other)) is not None) == (inside or bytes(other) == data)
    assert kinds.find(data + b"x") is None
    assert kinds.find(data[:-1]) is None


def test_a_vector_whose_place_is_not_sure_teaches_nothing():
    kinds = Kinds()
    data = request(np.zeros(DIM, np.float32), collection="\0" * 40)
    kinds.learn(data, *read(data))
    assert kinds.find(data) is None


def test_few_kinds_are_kept_and_the_last_stay():
    kinds = Kinds()
    many = [request(X[0], k=k) for k in range(1, MOST_KINDS + 2)]
    for data in many:
        kinds.learn(data, *read(data))
    assert kinds.find(many[0]) is None
    assert kinds.find(many[1]) is not None
    new = request(X[0], k=99)
    kinds.learn(new, *read(new))
    assert kinds.find(many[1]) is not None
    assert kinds.find(many[2]) is None


@pytest.mark.parametrize("state", ["one shard", "more shards", "memtable"])
def test_packed_by_parts_an_answer_is_the_same_message(state, monkeypatch):
    monkeypatch.setattr(shown, "MOST_KINDS", 2)
    with vstore.connect("memory://") as database:
        made = database.create_collection(
            "c", dim=DIM, metric="cosine", fields={"year": "int", "name": "str"}
        )
        for start in (0, 300) if state == "more shards" else (0,):
            rows = range(start, start + 300)
            made.upsert(rows, X[start : start + 300], {"year": [i % 5 for i in rows], "name": ["n"] * 300})
            made.flush()
        if state == "memtable":
            made.upsert(range(600, 650), X[600:650])
        made.warm(False)
        made.search(X[0], k=900, recall=1.0)
        service = Service(database)
        n_packed = 0
        for filter in (None, {"year": 3}, {"year": 77}):
            for k in (1, 4, 30):
                group = [checked_search(made, q, k, filter, 0.95, None) for q in X[700:705]]
                for one in (*answer_from_memory(group, 1e9), answer_from_memory(group[:1], 1e9)[0]):
                    n_packed += receipt_parts(one) is not None
                    call = Call(ANYBODY)
                    got = decode(service.hits_answer(one, call), Limits())
                    wanted = decode(encode(messages.hits_message(one)), Limits())
                    assert got == wanted
                    assert call.receipt == wanted["receipt"]
        assert (n_packed > 0) == (state == "one shard")
        service.close()


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=60), st.integers(0, 200), st.binary(max_size=4))
def test_a_small_message_is_read_as_a_scanned_one(noise, cut, tail):
    """The scan is stricter in nothing that a message of this size could do harm with."""
    whole = request(X[0])
    for data in (noise, whole[:cut], whole[:cut] + tail + whole[cut:], b"\x81\xa1a" + noise):
        try:
            scanned = decode(data, Limits())
        except InvalidInput:
            with pytest.raises(InvalidInput):
                decode_small(data)
        else:
            assert repr(decode_small(data)) == repr(scanned)


def test_a_message_that_is_not_small_is_not_taken_for_small():
    data = encode({"a": b"x" * SMALL_BYTES})
    with pytest.raises(LimitExceeded):
        decode_small(data)
    with pytest.raises(MalformedMessage):
        decode_small(bytes.fromhex("81a161d40578"))
