"""What S3 adds to the contract: lost answers, races with oneself, missing buckets, refused credentials."""

from __future__ import annotations

import logging

import pytest
from fault_proxy import BUSY, DOWN, FLAT, HALF, LOST_500, LOST_CUT, FaultProxy

from vstore.errors import (
    AccessDenied,
    BucketNotFound,
    Closed,
    CorruptData,
    InvalidInput,
    MissingDependency,
    ObjectExists,
    ObjectNotFound,
    StorageError,
    StoreFull,
    StoreUnavailable,
)
from vstore.settings import Settings
from vstore.storage import ByteRange, ObjectInfo, open_store
from vstore.storage import s3 as s3_module
from vstore.storage.s3 import S3Store
from vstore.storage.s3_client import S3Options, check_botocore
from vstore.storage.wrappers import CountingStore

pytestmark = pytest.mark.s3


chosen = {"s3_reader": "presigned"}


def quick(n_retries=0, **options):
    return Settings(n_retries=n_retries, io_concurrency=4, sleep=lambda s: None, **chosen, **options)


@pytest.fixture(params=["presigned", "boto3", "obstore"])
def reader(request, monkeypatch):
    """Run the test with each reader."""
    if request.param == "obstore":
        pytest.importorskip("obstore", reason="needs obstore; run: pip install 'vstore[obstore]'")
    monkeypatch.setitem(chosen, "s3_reader", request.param)
    return request.param


@pytest.fixture
def proxy(s3_server):
    proxy = FaultProxy(s3_server.endpoint_url)
    yield proxy
    proxy.close()


@pytest.fixture
def near(s3_url, s3_options, reader):
    """The store without anything between."""
    store = open_store(s3_url, settings=quick(), **s3_options)
    yield store
    store.close()


@pytest.fixture
def make_far(s3_url, s3_options, proxy, reader):
    """Make a store of the same place behind the proxy, with that many retries of botocore's."""
    stores = []

    def make(n_retries):
        options = s3_options | {"endpoint_url": proxy.endpoint_url}
        stores.append(open_store(s3_url, settings=quick(n_retries), **options))
        return stores[-1]

    yield make
    for store in stores:
        store.close()


# ---- lost answers


@pytest.mark.parametrize("loss", [LOST_500, LOST_CUT])
@pytest.mark.parametrize("n_retries", [0, 2])
def test_a_create_whose_answer_is_lost_succeeds(make_far, near, proxy, loss, n_retries):
    """Without retries it is read back after the error; with botocore's own retry, after the 412 it earns."""
    far = make_far(n_retries)
    proxy.script["PUT"] = [loss]
    far.put_if_absent("c", b"mine")
    assert near.get("c") == b"mine"
    assert [m for m, _ in proxy.seen].count("PUT") == (1 if n_retries == 0 else 2)


@pytest.mark.parametrize("loss", [LOST_500, LOST_CUT])
@pytest.mark.parametrize("n_retries", [0, 2])
def test_a_create_that_lost_the_race_and_its_answer_is_refused(make_far, near, proxy, loss, n_retries):
    near.put("c", b"other")
    far = make_far(n_retries)
    proxy.script["PUT"] = [loss]
    with pytest.raises(ObjectExists):
        far.put_if_absent("c", b"a longer body of mine")
    proxy.script["PUT"] = [loss]
    with pytest.raises(ObjectExists):
        far.put_if_absent("c", b"mine!")
    assert near.get("c") == b"other"


def test_a_create_that_never_arrived_may_be_done_again(make_far, near, proxy):
    far = make_far(0)
    proxy.script["PUT"] = [DOWN]
    with pytest.raises(StoreUnavailable, match="not known whether"):
        far.put_if_absent("c", b"mine")
    assert near.head("c") is None
    far.put_if_absent("c", b"mine")
    assert near.get("c") == b"mine"


def test_botocore_retries_what_never_arrived(make_far, near, proxy):
    far = make_far(2)
    proxy.script["PUT"] = [DOWN]
    far.put_if_absent("c", b"mine")
    proxy.script["PUT"] = [DOWN]
    far.put("d", b"x")
    assert (near.get("c"), near.get("d")) == (b"mine", b"x")


def test_a_conditional_conflict_is_tried_again(make_far, near, proxy):
    """AWS answers 409 to one of two creates at the same moment; it says nothing about who won."""
    far = make_far(0)
    proxy.script["PUT"] = [BUSY, BUSY]
    far.put_if_absent("c", b"mine")
    assert near.get("c") == b"mine"
    proxy.script["PUT"] = [BUSY]
    with pytest.raises(ObjectExists):
        far.put_if_absent("c", b"other")
    proxy.script["PUT"] = [BUSY] * 100
    with pytest.raises(StoreUnavailable, match="not known whether"):
        far.put_if_absent("d", b"mine")


def test_neither_answer_nor_readback(make_far, near, proxy):
    far = make_far(0)
    proxy.script = {"PUT": [LOST_CUT], "HEAD": [DOWN]}
    with pytest.raises(StoreUnavailable, match="same bytes"):
        far.put_if_absent("c", b"mine")
    far.put_if_absent("c", b"mine")
    proxy.script = {"PUT": [LOST_CUT], "GET": [DOWN]}
    with pytest.raises(StoreUnavailable, match="same bytes"):
        far.put_if_absent("d", b"mine")


def test_a_body_that_breaks_off_is_read_again(make_far, near, proxy):
    data = bytes(range(256)) * 40
    near.put("a", data)
    proxy.script["GET"] = [HALF, HALF]
    assert make_far(2).get("a") == data
    proxy.script["GET"] = [HALF]
    assert make_far(1).get("a", 100, 5000) == data[100:5100]
    proxy.script["GET"] = [HALF]
    with pytest.raises(StoreUnavailable):
        make_far(0).get("a")


@pytest.mark.parametrize("method", ["get", "head", "list", "put", "delete"])
def test_a_server_in_trouble_is_unavailable(make_far, proxy, method):
    far = make_far(0)
    proxy.script = {verb: [DOWN] for verb in ("GET", "HEAD", "PUT", "POST")}
    calls = {
        "get": lambda: far.get("a"),
        "head": lambda: far.head("a"),
        "list": far.list,
        "put": lambda: far.put("a", b"x"),
        "delete": lambda: far.delete(["a"]),
    }
    with pytest.raises(StoreUnavailable):
        calls[method]()


def test_a_server_that_ignores_ranges_is_found_out(make_far, near, proxy):
    near.put("a", bytes(1000))
    proxy.script["GET"] = [FLAT]
    with pytest.raises(StorageError, match="ignores ranges"):
        make_far(0).get("a", 10, 10)


def test_no_expect_header_and_a_put_after_an_answer(make_far, proxy):
    """One connection, many puts: none waits for a "100 Continue"."""
    far = make_far(0)
    for i in range(20):
        far.put(f"a/{i}", b"x" * (1 + 5000 * (i % 3)))
    assert len(far.list("a/")) == 20


# ---- places and rights


def test_a_missing_bucket(s3_options, reader):
    store = open_store("s3://not-a-bucket/p", settings=quick(), **s3_options)
    calls = (
        lambda: store.get("a"),
        lambda: store.get("a", 5, 5),
        lambda: store.get_many([ByteRange("a", 0, 1), ByteRange("b", 0, 1)]),
        lambda: store.put("a", b"x"),
        lambda: store.put_if_absent("a", b"x"),
        lambda: store.head("a"),
        store.list,
    )
    for call in calls:
        with pytest.raises(BucketNotFound, match=r"not-a-bucket.*create it"):
            call()
    store.close()


@pytest.mark.parametrize("which", ["access_key_id", "secret_access_key"])
def test_refused_credentials(s3_url, s3_options, which, reader):
    store = open_store(s3_url, settings=quick(), **(s3_options | {which: "wrong"}))
    calls = (
        lambda: store.get("a"),
        lambda: store.put("a", b"x"),
        lambda: store.put_if_absent("a", b"x"),
        lambda: store.head("a"),
        store.list,
        lambda: store.delete(["a"]),
    )
    for call in calls:
        with pytest.raises(AccessDenied, match="check the credentials") as caught:
            call()
        assert s3_options["secret_access_key"] not in str(caught.value)
    store.close()


def test_no_credentials(s3_url, s3_options, monkeypatch, tmp_path, reader):
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "AWS_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "none"))
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "none"))
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    store = open_store(s3_url, settings=quick(), endpoint_url=s3_options["endpoint_url"])
    for call in (store.list, lambda: store.get("a", 1, 2)):
        with pytest.raises(AccessDenied, match="AWS_ACCESS_KEY_ID"):
            call()


def test_credentials_of_the_usual_chain(near, s3_url, s3_options, monkeypatch):
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", s3_options["access_key_id"])
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", s3_options["secret_access_key"])
    monkeypatch.delenv("AWS_DEFAULT_REGION", raising=False)
    near.put("a", b"x")
    store = open_store(s3_url, settings=quick(), endpoint_url=s3_options["endpoint_url"])
    assert store.get("a") == b"x"


def test_nobody_listens(s3_url, s3_options, reader):
    store = open_store(s3_url, settings=quick(), **(s3_options | {"endpoint_url": "http://127.0.0.1:9"}))
    for call in (lambda: store.get("a"), store.list, lambda: store.put_if_absent("a", b"x")):
        with pytest.raises(StoreUnavailable, match=r"127\.0\.0\.1:9"):
            call()


@pytest.mark.parametrize(
    ("code", "status", "expected"),
    [
        ("XMinioStorageFull", 507, StoreFull),
        ("InsufficientStorage", 500, StoreFull),
        ("ExpiredToken", 400, AccessDenied),
        ("RequestTimeTooSkewed", 403, AccessDenied),
        ("PermanentRedirect", 301, StorageError),
        ("SlowDown", 503, StoreUnavailable),
        ("TooManyRequests", 429, StoreUnavailable),
        ("NoSuchBucket", 404, BucketNotFound),
        ("EntityTooLarge", 400, StorageError),
        ("NotImplemented", 501, StorageError),
    ],
)
def test_answers_that_test_servers_do_not_give(near, monkeypatch, code, status, expected):
    from botocore.exceptions import ClientError

    answer = {"Error": {"Code": code, "Message": "m"}, "ResponseMetadata": {"HTTPStatusCode": status}}

    def fail(**arguments):
        raise ClientError(answer, "PutObject")

    monkeypatch.setattr(near._client, "put_object", fail)
    for method in (near.put, near.put_if_absent):
        with pytest.raises(expected) as caught:
            method("a", b"x")
        assert type(caught.value) is expected
        assert near.url in str(caught.value)


def test_secrets_are_not_shown(s3_url, s3_options):
    store = open_store(s3_url, **s3_options)
    for text in (repr(store), store.url, repr(S3Options("http://x", "r", "id", "hidden", "hidden"))):
        assert "hidden" not in text
        assert s3_options["secret_access_key"] not in text


# ---- the place itself


def test_prefixes_keep_stores_apart(near, s3_url, s3_options):
    inside = open_store(f"{s3_url}/sub", settings=quick(), **s3_options)
    beside = open_store(f"{s3_url}-2", settings=quick(), **s3_options)
    for store in (near, inside, beside):
        store.put("a", store.url.encode())
    assert [i.key for i in near.list()] == ["a", "sub/a"]
    assert inside.list() == [ObjectInfo("a", len(inside.url))]
    assert beside.list() == [ObjectInfo("a", len(beside.url))]
    near.delete(["a"])
    assert beside.get("a") == beside.url.encode()


def test_a_prefix_with_slashes_spaces_and_letters(s3_url, s3_options, reader):
    store = open_store(f"{s3_url}/größe und+mehr/x//".replace("x//", "x/"), settings=quick(), **s3_options)
    store.put("a/b", b"x")
    assert store.get("a/b") == b"x"
    assert store.list("a") == [ObjectInfo("a/b", 1)]
    store.delete(["a/b"])
    assert store.list() == []


def test_the_root_of_a_bucket(s3_server):
    s3_server.create_bucket("root-of-bucket")
    store = open_store("s3://root-of-bucket", settings=quick(), **s3_server.options)
    store.put("a/b", b"x")
    assert store.list() == [ObjectInfo("a/b", 1)]
    assert store.url == "s3://root-of-bucket"


def test_folders_made_by_a_console_are_no_objects(near):
    near._client.put_object(Bucket=near._bucket, Key=near._root + "folder/", Body=b"")
    near.put("folder/a", b"x")
    assert near.list() == [ObjectInfo("folder/a", 1)]


def test_addressing_styles(s3_options):
    def host_of(**options):
        store = S3Store("bucket", options=S3Options(access_key_id="a", secret_access_key="b", **options))
        url = store._client.generate_presigned_url("get_object", Params={"Bucket": "bucket", "Key": "k"})
        store.close()
        return url.split("?")[0]

    assert host_of(endpoint_url="http://host:1") == "http://host:1/bucket/k"
    assert host_of(endpoint_url="http://host:1", addressing_style="path") == "http://host:1/bucket/k"
    assert host_of(endpoint_url="http://host:1", addressing_style="virtual") == "http://bucket.host:1/k"
    assert host_of(region="eu-west-1", addressing_style="path").endswith("amazonaws.com/bucket/k")
    assert host_of(region="eu-west-1").startswith("https://bucket.s3")


# ---- requests


def test_near_ranges_are_one_request(make_far, near, proxy):
    data = bytes(range(256)) * 1000
    near.put("a", data)
    near.put("b", data)
    store = CountingStore(make_far(0))
    ranges = [ByteRange("a", i * 1000, 500) for i in range(100)] + [
        ByteRange("b", 0, 10),
        ByteRange("b", 9, 9),
    ]
    got = store.get_many(ranges)
    assert got == [data[r.start : r.start + r.length] for r in ranges]
    assert [m for m, _ in proxy.seen] == ["GET", "GET"]
    assert store.snapshot().n_requests == 2
    assert store.snapshot().bytes_fetched == 99_500 + 18


def test_the_first_error_of_many_wins(near):
    near.put("a", bytes(100))
    ranges = [ByteRange("a", 0, 10), ByteRange("absent", 0, 1), ByteRange("a2", 0, 1)]
    with pytest.raises(ObjectNotFound, match=r"a2|absent"):
        near.get_many(ranges)
    with pytest.raises(CorruptData):
        near.get_many([ByteRange("a", 0, 10), ByteRange("a", 90, 11)])


def test_a_large_body_goes_up_in_parts(near, monkeypatch):
    monkeypatch.setattr(s3_module, "MULTIPART_BYTES", 6 << 20)
    monkeypatch.setattr(s3_module, "PART_BYTES", 5 << 20)
    data = bytes(range(256)) * (44 << 10)
    near.put("large", data)
    assert near.head("large") == ObjectInfo("large", 11 << 20)
    assert near.get("large") == data
    assert "-" in near._client.head_object(Bucket=near._bucket, Key=near._root + "large")["ETag"]


def test_a_create_is_never_in_parts(near, monkeypatch):
    monkeypatch.setattr(s3_module, "MAX_CREATE_BYTES", 10)
    with pytest.raises(InvalidInput, match="11 bytes"):
        near.put_if_absent("a", bytes(11))


def test_an_own_reader_takes_the_place_of_boto3(s3_url, s3_options):
    asked = []

    class Reader:
        def __init__(self, client, bucket, root):
            self.root = root

        def read(self, key, start, length):
            asked.append((self.root + key, start, length))
            return b"0123456789"[start : None if length is None else start + length]

        def close(self):
            asked.append("closed")

    store = S3Store("bucket", "p", options=S3Options(**s3_options), make_reader=Reader)
    assert store.get("a", 2, 3) == b"234"
    assert store.get_many([ByteRange("a", 5), ByteRange("a", 1, 1)]) == [b"56789", b"1"]
    store.close()
    assert asked[0] == ("p/a", 2, 3)
    assert asked[-1] == "closed"


def test_deletes_that_fail_one_by_one(near, monkeypatch):
    near.put("a", b"x")
    near.put("b", b"x")
    real = near._client.delete_objects
    answers = [[("b", "InternalError")]]

    def delete(**arguments):
        real(**arguments)
        errors = [
            {"Key": near._root + key, "Code": code} for key, code in (answers.pop(0) if answers else [])
        ]
        return {"Errors": errors}

    monkeypatch.setattr(near._client, "delete_objects", delete)
    with pytest.raises(StoreUnavailable, match="'b'"):
        near.delete(["a", "b"])
    answers[:] = [[("a", "AccessDenied")]]
    with pytest.raises(AccessDenied):
        near.delete(["a"])
    answers[:] = [[("a", "NoSuchKey")]]
    near.delete(["a"])


def test_after_close(s3_url, s3_options):
    store = open_store(s3_url, settings=quick(), **s3_options)
    store.put("a", b"x")
    store.get_many([ByteRange("a"), ByteRange("a")])
    store.close()
    for call in (lambda: store.get("a"), store.list, lambda: store.put("a", b"x"), lambda: store.head("a")):
        with pytest.raises(Closed):
            call()


def test_old_botocore_is_refused():
    for version in ("1.43.76", "1.42.100", "0.9"):
        with pytest.raises(MissingDependency, match=r"1\.43\.77"):
            check_botocore(version)
    for version in ("1.43.77", "1.43.117", "1.44.0", "2.0.0"):
        check_botocore(version)


def test_nothing_is_logged_by_default(near, caplog):
    with caplog.at_level(logging.WARNING):
        near.put("a", b"x")
        near.get("a")
    assert not caplog.records
