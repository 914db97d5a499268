from __future__ import annotations

import numpy as np
import pytest

import vstore
from vstore.upkeep.shard_check import _narrow_agree
from vstore_kernels import codes


@pytest.mark.parametrize("bits", [1, 2, 4, 8])
@pytest.mark.parametrize("metric", ["l2", "cosine", "dot"])
def test_a_sound_collection_of_any_codes_verifies(tmp_path, bits, metric):
    vectors = np.random.default_rng(bits).standard_normal((600, 70)).astype(np.float32) + 1
    db = vstore.connect(tmp_path)
    index = vstore.IndexSettings(codes=bits)
    collection = db.create_collection("c", dim=70, metric=metric, index=index)
    collection.upsert(np.arange(600), vectors)
    collection.flush()
    assert db.verify("c").ok


@pytest.mark.parametrize("bits", [1, 2, 4])
@pytest.mark.parametrize("metric", ["l2", "cosine", "dot"])
def test_codes_of_other_rows_do_not_agree(bits, metric):
    vectors = np.random.default_rng(bits).standard_normal((300, 70)).astype(np.float32) + 1
    params = codes.train_codes(vectors, metric, bits)
    encoded = codes.encode(vectors, params)
    assert _narrow_agree(encoded, vectors, params)
    swapped = encoded.copy()
    swapped[[3, 7]] = encoded[[7, 3]]
    assert not _narrow_agree(swapped, vectors, params)
    biased = encoded.copy()
    biased[5, params.bias_at : params.bias_at + 4] = np.array([1e6], "<f4").view(np.uint8)
    assert not _narrow_agree(biased, vectors, params)
