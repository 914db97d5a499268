"""A learned fusion lives with its collection: found by name, checksummed, exported, applied by a server."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import vstore
from vstore.errors import CorruptData, InvalidSetting, RerankError
from vstore.format.frame import encode_frame, pack
from vstore.rerank import LexicalReranker, Rerank
from vstore.rerank.fusion import FirstStage, FusionReranker, Popularity, Recency
from vstore.rerank.learned import LearnedFusion, RankedQuery, train
from vstore.rerank.stored import MAGIC, StoredFusion, decode
from vstore.types import Candidate

pytest.importorskip("lightgbm", reason="needs the learn extra: pip install 'vstore[learn]'")

N = 24


def fused(signals: dict[str, Any]) -> LearnedFusion:
    """Learn that what is clicked most is relevant."""
    rng = np.random.default_rng(0)
    queries = []
    for i in range(40):
        clicks = rng.permutation(12).tolist()
        shown = [
            Candidate(j, f"text {j}", None, {"clicks": c}, 1.0 - j / 12, j) for j, c in enumerate(clicks)
        ]
        queries.append(RankedQuery(f"q{i}", shown, {j: 1.0 for j, c in enumerate(clicks) if c >= 9}))
    return train(signals, queries, n_trees=20)


@pytest.fixture(scope="module")
def learned() -> LearnedFusion:
    return fused({"vector": FirstStage(), "clicks": Popularity("clicks")})


@pytest.fixture
def database() -> vstore.Database:
    return vstore.connect("memory://")


def filled(database: vstore.Database, name: str = "notes") -> vstore.Collection:
    notes = database.create_collection(name, dim=2, fields={"clicks": "int"})
    clicks = np.random.default_rng(1).permutation(N).tolist()
    vectors = [[1.0, i / N] for i in range(N)]
    notes.upsert(list(range(N)), vectors, {"clicks": clicks}, [f"text {i}" for i in range(N)])
    return notes


def order(collection: vstore.Collection, rerank: Any) -> list[Any]:
    return collection.search([1, 0], k=N, rerank=rerank, query_document="q").ids


def test_it_is_applied_by_name_alone_and_within_a_stage(
    database: vstore.Database, learned: LearnedFusion
) -> None:
    notes = filled(database)
    notes.save_fusion("best", learned)
    wanted = order(notes, learned)
    assert wanted != order(notes, None), "the fusion changes nothing here"
    assert order(notes, "fusion:best") == wanted
    assert order(notes, [Rerank("fusion:best", depth=N)]) == wanted
    again = database.collection("notes")
    assert again.fusions() == ["best"]
    assert again.fusion("best").result == learned.result
    assert order(again, "fusion:best") == wanted


def test_names_are_taken_once_and_unknown_ones_named(
    database: vstore.Database, learned: LearnedFusion
) -> None:
    notes = filled(database)
    notes.save_fusion("best", learned)
    notes.save_fusion("best", learned)  # The same bytes: a repeated call does no harm.
    with pytest.raises(InvalidSetting, match="has a fusion 'best' already"):
        notes.save_fusion("best", fused({"vector": FirstStage()}))
    with pytest.raises(InvalidSetting, match=r"no fusion 'bset'.*best"):
        notes.search([1, 0], rerank="fusion:bset", query_document="q")
    with pytest.raises(InvalidSetting, match="collection name"):
        notes.save_fusion("../up", learned)
    with pytest.raises(InvalidSetting, match="LexicalReranker"):
        notes.save_fusion("words", LexicalReranker())  # type: ignore[arg-type]
    notes.delete_fusion("best")
    notes.delete_fusion("best")
    assert notes.fusions() == []
    with pytest.raises(InvalidSetting, match="it has: none"):
        notes.fusion("best")


def test_signals_that_are_values_are_made_again_and_models_have_to_be_given(
    database: vstore.Database,
) -> None:
    def model(query: Any, documents: Any) -> list[float]:
        return [float(len(d.text or "")) for d in documents]

    signals = {
        "vector": FirstStage(),
        "clicks": Popularity("clicks"),
        "age": Recency("clicks", 30.0),
        "words": LexicalReranker(["clicks"], k1=1.0, b=0.5),
        "model": model,
    }
    notes = filled(database)
    notes.save_fusion("all", fused(signals))
    with pytest.raises(InvalidSetting, match="signal 'model', a model"):
        order(notes, "fusion:all")
    found = notes.fusion("all", {"model": model, "other": model})
    assert found.names == tuple(signals)
    words = found.signals["words"]
    assert (words.fields, words.k1, words.b) == (("clicks",), 1.0, 0.5)
    assert found.signals["age"].half_life_days == 30.0
    assert notes.fusion("all", {"model": model}) is found, "the trees are read once"


def test_a_weighted_fusion_keeps_its_weights_and_the_words_that_it_counted(
    database: vstore.Database, tmp_path: Path
) -> None:
    notes = filled(database)
    words = LexicalReranker.of(notes, k1=1.0)
    signals = {"vector": (FirstStage(), 0.4), "words": (words, 0.6), "clicks": (Popularity("clicks"), 0.5)}
    fusion = FusionReranker(signals, "z_score")
    notes.save_fusion("best", fusion)
    query = {"k": N, "query_document": "text 7"}
    wanted = notes.search([1, 0], rerank=fusion, **query)
    assert wanted.ids != order(notes, None)
    again = database.collection("notes")
    found = again.search([1, 0], rerank="fusion:best", **query)
    assert found.ids == wanted.ids
    assert [hit.score for hit in found] == [hit.score for hit in wanted]
    made = again.fusion("best")
    assert isinstance(made, FusionReranker)
    assert (made.how, made.weights) == ("z_score", {"vector": 0.4, "words": 0.6, "clicks": 0.5})
    assert made.members["words"].counts == words.counts
    assert database.verify("notes").ok
    database.export("notes", tmp_path / "out")
    copy = database.import_collection(tmp_path / "out", "copy")
    assert copy.search([1, 0], rerank="fusion:best", **query).ids == wanted.ids


def test_a_weighted_fusion_of_a_model_takes_the_model(database: vstore.Database) -> None:
    def model(query: Any, documents: Any) -> list[float]:
        return [float(d.id) for d in documents]

    notes = filled(database)
    notes.save_fusion("both", FusionReranker({"model": (model, 1.0), "vector": (FirstStage(), 0.1)}))
    with pytest.raises(InvalidSetting, match="signal 'model', a model"):
        order(notes, "fusion:both")
    assert order(notes, notes.fusion("both", {"model": model}))[0] == N - 1


def test_weights_that_fit_no_signals_are_damage() -> None:
    signals = [["vector", {"kind": "vector"}]]
    for wrong in ({"how": "rrf", "weights": []}, {"how": 3, "weights": [1.0]}, {}):
        with pytest.raises(CorruptData):
            decode(encode_frame(MAGIC, pack({"signals": signals, **wrong})), "here")


def test_damage_is_found_by_who_applies_it_and_by_verify(
    database: vstore.Database, learned: LearnedFusion
) -> None:
    store = database.store
    filled(database).save_fusion("best", learned)
    assert database.verify("notes").ok
    (key,) = [info.key for info in store.list("data/notes/") if "/fusions/" in info.key]
    data = bytearray(store.get(key))
    data[-10] ^= 1
    store.put(key, bytes(data))
    with pytest.raises(CorruptData):
        database.collection("notes").fusion("best")
    report = database.verify("notes")
    assert not report.ok
    assert key in str(report)


def test_it_stays_through_garbage_collection_and_travels_with_an_export(
    database: vstore.Database, learned: LearnedFusion, tmp_path: Path
) -> None:
    notes = filled(database)
    notes.save_fusion("best", learned)
    wanted = order(notes, "fusion:best")
    notes.compact()
    assert database.verify("notes").n_unnamed == 0
    database.export("notes", tmp_path / "out")
    copy = database.import_collection(tmp_path / "out", "copy")
    assert copy.fusions() == ["best"]
    assert order(copy, "fusion:best") == wanted
    database.drop_collection("notes")
    assert database.create_collection("notes", dim=2).fusions() == []


def test_without_its_collection_it_says_what_to_do() -> None:
    with pytest.raises(RerankError, match=r"collection\.fusion\(name\)"):
        StoredFusion("best").score("q", [])


def test_a_server_applies_it_by_name_with_the_operators_models(
    database: vstore.Database, learned: LearnedFusion
) -> None:
    vstore_server = pytest.importorskip("vstore_server", reason="needs the server extra")

    def model(query: Any, documents: Any) -> list[float]:
        return [float(len(d.text or "")) for d in documents]

    notes = filled(database)
    notes.save_fusion("best", learned)
    both = fused({"clicks": Popularity("clicks"), "length": model})
    notes.save_fusion("both", both)
    with vstore_server.BackgroundServer(database, rerankers={"length": model}) as server:
        remote = vstore.connect(server.url).collection("notes")
        for name in ("best", "both"):
            hits = remote.search([1, 0], k=N, rerank=f"fusion:{name}", query_document="q")
            assert hits.ids == order(notes, {"best": learned, "both": both}[name])
        with pytest.raises(InvalidSetting, match="no fusion 'worst'"):
            remote.search([1, 0], rerank="fusion:worst", query_document="q")
