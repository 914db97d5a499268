"""Stored fusions over every face: listed, copied, deleted, exported and imported."""

from __future__ import annotations

import numpy as np
import pytest

import vstore
import vstore_server
from vstore import errors
from vstore.format.frame import encode_frame, pack
from vstore.rerank.fusion import FirstStage, Popularity
from vstore.rerank.stored import MAGIC
from vstore.types import Candidate
from vstore_server.auth import Token, Tokens, hash_token

FUSION = encode_frame(
    MAGIC, pack({"model": "trees", "result": {}, "signals": [["vector", {"kind": "vector"}]]})
)
OTHER = encode_frame(MAGIC, pack({"model": "more", "result": {}, "signals": [["words", {"kind": "given"}]]}))


@pytest.fixture
def filled(db, new_name):
    made = db.create_collection(new_name, dim=2, fields={"clicks": "int"})
    made.upsert(range(12), [[1.0, i / 12] for i in range(12)], [{"clicks": 5 * i % 12} for i in range(12)])
    return made


def test_fusions_are_kept_listed_and_deleted(filled):
    assert filled.fusions() == []
    filled.put_fusion_bytes("b", FUSION)
    filled.put_fusion_bytes("a", OTHER)
    assert filled.fusions() == ["a", "b"]
    assert filled.fusion_bytes("b") == FUSION
    with pytest.raises(errors.InvalidSetting, match="has a fusion 'b' already"):
        filled.put_fusion_bytes("b", OTHER)
    with pytest.raises(errors.InvalidSetting, match="has no fusion 'c'"):
        filled.fusion_bytes("c")
    with pytest.raises(errors.FormatError):
        filled.put_fusion_bytes("c", FUSION[:-1] + b"x")
    with pytest.raises(errors.InvalidSetting):
        filled.put_fusion_bytes("../up", FUSION)
    with pytest.raises(errors.InvalidSetting, match="save_fusion got a dict"):
        filled.save_fusion("c", {})
    filled.delete_fusion("a")
    filled.delete_fusion("never-there")
    assert filled.fusions() == ["b"]


def test_exports_carry_them(db, embedded, filled, new_name, tmp_path):
    filled.put_fusion_bytes("b", FUSION)
    filled.put_fusion_bytes("a", OTHER)
    assert db.export(filled.name, tmp_path / "e") == 12
    # What one face has written every face reads.
    for face, name in ((db, f"{new_name}-own"), (embedded, f"{new_name}-embedded")):
        copy = face.import_collection(tmp_path / "e", name)
        assert copy.fusions() == ["a", "b"]
        assert copy.fusion_bytes("a") == OTHER


def test_a_fusion_that_a_client_saved_is_applied_by_name(db, embedded, filled):
    pytest.importorskip("lightgbm", reason="needs the learn extra: pip install 'vstore[learn]'")
    from vstore.rerank.learned import RankedQuery, train

    rng = np.random.default_rng(0)
    queries = []
    for i in range(40):
        clicks = rng.permutation(12).tolist()
        shown = [Candidate(j, "", None, {"clicks": c}, 1.0 - j / 12, j) for j, c in enumerate(clicks)]
        queries.append(RankedQuery(f"q{i}", shown, {j: 1.0 for j, c in enumerate(clicks) if c >= 9}))
    fusion = train({"vector": FirstStage(), "clicks": Popularity("clicks")}, queries, n_trees=20)
    filled.save_fusion("best", fusion)
    found = filled.search([1, 0], k=12, rerank="fusion:best", query_document="q")
    there = embedded.collection(filled.name).search([1, 0], k=12, rerank=fusion, query_document="q")
    assert found.ids == there.ids != list(range(12))


def test_only_an_admin_stores_and_deletes_them(embedded, new_name):
    embedded.create_collection(new_name, dim=2)
    tokens = Tokens([Token(role, hash_token(role), role) for role in ("write", "admin")])
    with vstore_server.BackgroundServer(embedded, tokens=tokens) as server:
        with vstore.connect(server.url, token="write") as client:
            held = client.collection(new_name)
            for refused in (lambda: held.put_fusion_bytes("a", FUSION), lambda: held.delete_fusion("a")):
                with pytest.raises(vstore_server.errors.PermissionRefused):
                    refused()
            assert held.fusions() == []
        with vstore.connect(server.url, token="admin") as client:
            client.collection(new_name).put_fusion_bytes("a", FUSION)
            assert client.collection(new_name).fusions() == ["a"]
