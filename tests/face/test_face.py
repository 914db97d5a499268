"""Every method of the face, on memory, folder and S3, under every metric and both kinds of id."""

from __future__ import annotations

import datetime as dt

import numpy as np
import pytest
from face_data import FIELDS, attributes, clustered, exact_distances

import vstore
from vstore import F

N, DIM = 600, 12


@pytest.mark.parametrize("metric", ["cosine", "l2", "dot"])
@pytest.mark.parametrize("kind", ["int", "str"])
def test_the_main_job(connect, metric, kind):
    db = connect()
    vectors, rows = clustered(N, DIM, 1), attributes(N, 1)
    ids = [i * 3 if kind == "int" else f"row-{i:04d}" for i in range(N)]
    documents = [f"text of {i}" if i % 5 else None for i in range(N)]
    made = db.create_collection("photos", dim=DIM, metric=metric, fields=FIELDS)
    assert made.upsert(ids[:400], vectors[:400], rows[:400], documents[:400]) == 400
    made.flush()
    assert made.upsert(ids[400:], vectors[400:], rows[400:], documents[400:]) == 200
    assert len(made) == made.count() == N

    query = clustered(1, DIM, 2)[0]
    truth = exact_distances(query[None], vectors, metric)[0]
    filter = (F.year >= 2000) & F.tags.contains("bird")
    matching = np.array([r.get("year", 0) >= 2000 and "bird" in (r.get("tags") or []) for r in rows])
    assert made.count(filter) == matching.sum()
    hits = made.search(query, k=5, filter=filter, recall=1.0)
    wanted = np.where(matching, truth, np.inf).argsort()[:5]
    assert hits.ids == [ids[i] for i in wanted]
    for hit, i in zip(hits, wanted, strict=True):
        assert hit.distance == pytest.approx(truth[i], rel=1e-4, abs=1e-4)
        sign = 1 - hit.distance if metric == "cosine" else -hit.distance
        assert hit.score == pytest.approx(sign, abs=1e-5)
        assert hit.attributes == rows[i]
        assert hit.document == ({"text": documents[i]} if documents[i] else None)
        assert (hit.first_score, hit.first_rank) == (hit.score, hits.ids.index(hit.id))
    assert list(hits.scores) == sorted(hits.scores, reverse=True)

    batch = made.search_batch(clustered(3, DIM, 3), k=4, filter=filter)
    assert batch.ids.shape == batch.scores.shape == (3, 4)
    assert len(batch.receipts) == 3
    single = [made.search(q, k=4, filter=filter).ids for q in clustered(3, DIM, 3)]
    assert [list(row) for row in batch.ids] == single

    assert made.delete(ids=[ids[int(wanted[0])], ids[int(wanted[1])]]) == 2
    assert made.search(query, k=3, filter=filter, recall=1.0).ids == [ids[i] for i in wanted[2:5]]
    assert made.delete(filter=F.year < 1995) == sum(
        r.get("year", 9999) < 1995 and i not in wanted[:2] for i, r in enumerate(rows)
    )
    left = made.count()
    made.compact()
    assert made.count() == left
    record, nothing = made.get([ids[int(wanted[2])], ids[int(wanted[0])]])
    assert nothing is None
    assert np.array_equal(record.vector, vectors[wanted[2]])
    assert record.attributes == rows[wanted[2]]

    other = connect().collection("photos")
    assert other.count() == left
    assert other.search(query, k=3, filter=filter, recall=1.0).ids == [ids[i] for i in wanted[2:5]]
    assert db.collections() == ["photos"]
    db.drop_collection("photos")
    assert db.collections() == []
    with pytest.raises(vstore.errors.CollectionNotFound):
        db.collection("photos")
    again = db.create_collection("photos", dim=3)
    assert len(again) == 0


@pytest.mark.parametrize("metric", ["cosine", "l2", "dot"])
def test_flush_and_compact_keep_answers(connect, metric):
    db = connect()
    vectors, rows = clustered(N, DIM, 4), attributes(N, 4)
    collection = db.create_collection("c", dim=DIM, metric=metric, fields=FIELDS)
    for start in range(0, N, 100):
        collection.upsert(
            list(range(start, start + 100)), vectors[start : start + 100], rows[start : start + 100]
        )
        if start in (100, 300):
            collection.flush()
    # No copies: which of equally near rows comes first is not promised.
    collection.upsert(list(range(50)), vectors[100:150] + np.float32(0.01), rows[100:150])
    collection.delete(ids=list(range(60, 90)))

    def answers():
        return [
            [(hit.id, hit.attributes) for hit in collection.search(q, k=8, filter=filter, recall=1.0)]
            for q in clustered(5, DIM, 5)
            for filter in (None, F.year > 2010, {"public": True, "topic": {"$in": ["bird", "tree"]}})
        ]

    before = answers()
    collection.flush()
    assert answers() == before
    collection.compact()
    assert answers() == before
    assert connect().collection("c").count() == collection.count() == N - 30


def test_last_write_wins_and_deletes_hide_at_once(db):
    collection = db.create_collection("c", dim=2, metric="l2", fields={"v": "int"})
    collection.upsert([1, 2], [[0, 0], [1, 1]], [{"v": 1}, {"v": 2}])
    collection.flush()
    collection.upsert([1], [[5, 5]], [{"v": 10}])
    assert collection.search([0, 0], k=9).ids == [2, 1]
    assert collection.get([1])[0].attributes == {"v": 10}
    collection.flush()
    assert collection.search([0, 0], k=9).ids == [2, 1]
    assert collection.delete(ids=[2, 77]) == 1
    assert collection.search([0, 0], k=9).ids == [1]
    collection.upsert([2], [[1, 1]])
    assert collection.get([2])[0].attributes == {}
    assert collection.count() == 2


def test_inputs_of_every_shape(connect):
    torch = pytest.importorskip("torch", reason="needs the rerank extra: pip install torch==2.13.0")
    db = connect()
    collection = db.create_collection("c", dim=3, metric="cosine", fields=FIELDS)
    collection.upsert(["a"], torch.tensor([[1.0, 0.0, 0.0]], requires_grad=True))
    collection.upsert(["b"], torch.tensor([[0, 1, 0]]))
    collection.upsert(["c"], torch.tensor([[0.0, 0.0, 1.0]], dtype=torch.bfloat16))
    collection.upsert(("d",), [[1, 1, 0]], {"year": [2001], "taken": ["2024-05-06T07:08:09+02:00"]})
    collection.upsert(
        np.array(["e"]), np.array([[1, 0, 1]], dtype=np.int8), {"taken": np.array(["2020-01-01"], "M8[D]")}
    )
    assert collection.search(torch.tensor([1.0, 0.1, 0.0]), k=1).ids == ["a"]
    taken = dt.datetime(2024, 5, 6, 5, 8, 9, tzinfo=dt.UTC)
    assert collection.get(["d"])[0].attributes == {"year": 2001, "taken": taken}
    assert collection.count(F.taken == taken) == 1
    assert collection.count(F.taken < taken) == 1


def test_documents_of_every_kind(db, tmp_path):
    image = pytest.importorskip("PIL.Image", reason="needs the rerank extra: pip install pillow")
    collection = db.create_collection("c", dim=1, metric="l2")
    picture = image.new("RGB", (2, 2), "red")
    collection.upsert(
        [1, 2, 3, 4],
        [[1], [2], [3], [4]],
        documents=[
            "text",
            {"image": b"\x89PNG"},
            {"text": "t", "image": picture},
            {"image": tmp_path / "p.png"},
        ],
    )
    collection.flush()
    found = [record.document for record in collection.get([1, 2, 3, 4])]
    assert found[:2] == [{"text": "text"}, {"image": b"\x89PNG"}]
    assert found[2]["text"] == "t"
    assert found[2]["image"].startswith(b"\x89PNG")
    assert found[3] == {"image": str(tmp_path / "p.png")}


def test_an_empty_collection_answers(db):
    collection = db.create_collection("c", dim=2, fields={"year": "int"})
    hits = collection.search([1, 0], k=3, filter=F.year > 3)
    assert len(hits) == 0
    assert hits.receipt.plan
    assert hits.receipt.n_matching == 0
    assert collection.search_batch([[1, 0]], k=2).ids.tolist() == [[-1, -1]]
    assert collection.get([1]) == [None]
    assert collection.count() == collection.delete(ids=[1]) == collection.delete(filter=F.year > 0) == 0
    collection.flush()
    collection.compact()
    assert collection.warm() == 0
    assert collection.upsert([], np.empty((0, 2))) == 0


def test_reranking_keeps_first_scores_and_reports(db):
    collection = db.create_collection("c", dim=2, metric="l2", fields={"n": "int"})
    collection.upsert(
        list(range(20)), [[i, 0] for i in range(20)], {"n": list(range(20))}, [f"d {i}" for i in range(20)]
    )
    hits = collection.search(
        [0, 0],
        k=3,
        rerank=lambda query, documents: [float(d.attributes["n"]) for d in documents],
        rerank_depth=10,
        query_document="anything",
    )
    assert hits.ids == [9, 8, 7]
    assert [hit.first_rank for hit in hits] == [9, 8, 7]
    assert hits[0].score == 9.0
    assert hits[0].first_score == pytest.approx(-9.0)
    assert hits.receipt.rerank[0].n_scored == 10
    assert hits.receipt.timings_ms["rerank"] > 0


def test_a_read_only_connection_refuses_writes(connect):
    connect().create_collection("c", dim=1, metric="l2").upsert([1], [[1]])
    reader = connect(read_only=True)
    collection = reader.collection("c")
    assert collection.count() == 1
    for write in (
        lambda: collection.upsert([2], [[2]]),
        lambda: collection.delete(ids=[1]),
        collection.flush,
        collection.compact,
        lambda: reader.create_collection("d", dim=1),
        lambda: reader.drop_collection("c"),
    ):
        with pytest.raises(vstore.errors.ReadOnly):
            write()


def test_a_reader_refreshes_and_a_closed_handle_says_so(connect):
    writer = connect().create_collection("c", dim=1, metric="l2")
    reader = connect().collection("c")
    writer.upsert([1], [[1]])
    assert reader.count() == 0
    reader.refresh()
    assert reader.count() == 1
    reader.close()
    with pytest.raises(vstore.errors.Closed, match=r"db\.collection"):
        reader.count()


def test_handles_of_one_connection_share_a_writer(db):
    one = db.create_collection("c", dim=1, metric="l2")
    other = db.collection("c")
    one.upsert([1], [[1]])
    other.upsert([2], [[2]])
    one.upsert([3], [[3]])
    assert one.count() == other.count() == 3


def test_a_second_connection_takes_over_and_the_first_is_told(connect):
    first = connect().create_collection("c", dim=1, metric="l2")
    first.upsert([1], [[1]])
    second = connect().collection("c")
    second.upsert([2], [[2]])
    for _ in range(2):
        with pytest.raises(vstore.errors.WriterFenced, match="again"):
            first.upsert([3], [[3]])
    second.upsert([4], [[4]])
    assert connect().collection("c").count() == 3


def test_a_dropped_collection_takes_no_more_writes(connect):
    writer = connect().create_collection("c", dim=1, metric="l2")
    writer.upsert([1], [[1]])
    db = connect()
    db.drop_collection("c")
    with pytest.raises((vstore.errors.WriterFenced, vstore.errors.CollectionNotFound)):
        writer.upsert([2], [[2]])
    assert len(db.create_collection("c", dim=1, metric="l2")) == 0
