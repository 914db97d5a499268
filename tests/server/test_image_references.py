"""Image references from clients: bytes, or paths inside the collection's own images; each refusal."""

from __future__ import annotations

import pytest
from raw_call import raw

import vstore
import vstore_server
from vstore.errors import InvalidDocument
from vstore.storage import MemoryStore
from vstore_server.codec import encode
from vstore_server.images import check_image

REFUSED = [
    "/etc/passwd",
    "picture.png",
    "file:///etc/passwd",
    "http://169.254.169.254/latest",
    "https://example.com/a.png",
    "s3://bucket/a.png",
    "store://",
    "store://a.png",
    "store://vstore.json",
    "store://data/c/x/log/00000000000000000001",
    "store://images/a.png",
    "store://images/other/a.png",
    "store://images/c",
    "store://images/c/",
    "store://images/c/../other/a.png",
    "store://images/c/./a.png",
    "store://images/c//a.png",
    "store://images/c/a\\..\\b.png",
    "store://images/c/a\0.png",
    "store://images/c/a\n.png",
    "store://images/c/" + "a" * 1025,
    "STORE://images/c/a.png",
    " store://images/c/a.png",
]


@pytest.fixture(scope="module")
def seen():
    return []


@pytest.fixture(scope="module")
def served(seen):
    def look(query, documents):
        seen.extend(document.image for document in documents)
        return [0.0] * len(documents)

    store = MemoryStore()
    with vstore.connect(store) as database:
        database.create_collection("c", dim=2)
        store.put("images/c/deep/a.png", b"one")
        store.put("images/other/a.png", b"two")
        with vstore_server.BackgroundServer(database, rerankers={"look": look}) as server:
            yield server


@pytest.mark.parametrize("image", REFUSED)
def test_every_other_reference_is_refused_by_client_and_server(served, image):
    with pytest.raises(InvalidDocument, match="takes encoded bytes"):
        check_image({"image": image}, "document 0", "c")
    with vstore.connect(served.url) as client, pytest.raises(InvalidDocument, match="takes encoded bytes"):
        client.collection("c").upsert([1], [[1, 0]], documents=[{"image": image}])
    # A client of another make sends it all the same.
    message = {
        "collection": "c",
        "ids": [1],
        "vectors": {"dtype": "float32", "shape": [1, 2], "data": b"\0\0\x80?\0\0\0\0"},
        "documents": [{"image": image}],
    }
    status, name = raw(served, "Upsert", encode(message))[:2]
    assert (status, name) == ("INVALID_ARGUMENT", "InvalidDocument")
    with vstore.connect(served.url) as client:
        assert client.collection("c").count() == 0 or client.collection("c").get([1]) == [None]


def test_a_path_inside_the_collection_is_read_for_a_re_ranker(served, seen):
    with vstore.connect(served.url) as client:
        held = client.collection("c")
        held.upsert(
            [7, 8, 9],
            [[1, 0], [1, 0.1], [1, 0.2]],
            documents=[
                {"image": "store://images/c/deep/a.png"},
                {"image": b"three"},
                {"image": "store://images/c/lost.png"},
            ],
        )
        hits = held.search([1, 0], k=3, rerank="look", query_document="q")
        # What the store lacks stays a reference, which no model of images can read.
        assert seen == [b"one", b"three", "store://images/c/lost.png"]
        by_id = {hit.id: hit.document for hit in hits}
        assert by_id[7] == {"image": "store://images/c/deep/a.png"}
        with pytest.raises(InvalidDocument, match="takes encoded bytes"):
            held.search([1, 0], rerank="look", query_document={"image": "store://images/c/deep/a.png"})
        held.delete([7, 8, 9])
