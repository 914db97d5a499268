"""A looser filter never loses a nearer hit that a tighter one found, where recall=1 is asked for."""

from __future__ import annotations

import functools

import numpy as np
from face_rows import build_store, queries
from hypothesis import given, settings
from hypothesis import strategies as st

import vstore
from vstore import F

N = 3_000


@functools.cache
def collection():
    return vstore.connect(build_store(n=N), settings=vstore.Settings(n_threads=1)).collection("c")


BUCKETS = st.sets(st.integers(0, 99), min_size=1, max_size=40)


@settings(max_examples=60, deadline=None)
@given(tight=BUCKETS, more=BUCKETS, asked=st.integers(0, 19), k=st.integers(1, 40))
def test_loosening_a_filter_keeps_every_nearer_hit(tight, more, asked, k):
    query = queries(20)[asked]
    filters = [F.bucket.isin(sorted(buckets)) for buckets in (tight, tight | more)]
    narrow, wide = (collection().search(query, k=k, filter=filter, recall=1.0) for filter in filters)
    assert len(narrow) == min(k, len(tight) * N // 100)
    assert len(wide) >= len(narrow)
    # Each place of the looser answer is at least as near.
    limits = [hit.distance for hit in wide]
    assert all(limits[i] <= hit.distance for i, hit in enumerate(narrow))
    # And a hit that is nearer than its last one is in it.
    found = set(wide.ids)
    assert all(hit.id in found for hit in narrow if hit.distance < limits[-1])


@settings(max_examples=20, deadline=None)
@given(tight=BUCKETS, asked=st.integers(0, 19))
def test_no_filter_is_the_loosest(tight, asked):
    query = queries(20)[asked]
    narrow = collection().search(query, k=10, filter=F.bucket.isin(sorted(tight)), recall=1.0)
    wide = collection().search(query, k=10, recall=1.0)
    assert [hit.distance for hit in wide] == sorted(hit.distance for hit in wide)
    assert np.all([a.distance <= b.distance for a, b in zip(wide, narrow, strict=True)])
