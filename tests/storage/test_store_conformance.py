"""The shipped conformance suite against every store that vstore has, bare and wrapped."""

from __future__ import annotations

import itertools
import random

import pytest

from vstore.settings import Settings
from vstore.storage import LocalStore, MemoryStore, open_store
from vstore.storage.wrappers import (
    CountingStore,
    FaultStore,
    ForwardingStore,
    LatencyStore,
    RetryStore,
    seeded_faults,
)
from vstore.testing.store_suite import StoreSuite

numbers = itertools.count()


def needs(reader: str) -> None:
    """Skip where the reader's package is not installed."""
    if reader == "obstore":
        pytest.importorskip("obstore", reason="needs obstore; run: pip install 'vstore[obstore]'")


@pytest.fixture(scope="module")
def moto_url():
    import boto3

    server_module = pytest.importorskip("moto.server")
    server = server_module.ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    url = f"http://{host}:{port}"
    keys = {"aws_access_key_id": "x", "aws_secret_access_key": "x", "region_name": "us-east-1"}
    client = boto3.client("s3", endpoint_url=url, **keys)
    client.create_bucket(Bucket="moto")
    client.close()
    yield url
    server.stop()


class TestMemory(StoreSuite):
    @pytest.fixture
    def store(self):
        store = MemoryStore()
        yield store
        store.close()


class TestLocal(StoreSuite):
    @pytest.fixture
    def store(self, tmp_path):
        store = LocalStore(tmp_path / "not" / "yet")
        yield store
        store.close()


@pytest.mark.s3
class TestSeaweed(StoreSuite):
    n_listed = 1005
    n_rounds = 2

    @pytest.fixture(params=["presigned", "boto3", "obstore"])
    def store(self, request, s3_url, s3_options):
        needs(request.param)
        settings = Settings(io_concurrency=8, s3_reader=request.param)
        store = open_store(s3_url, settings=settings, **s3_options)
        yield store
        store.close()


@pytest.mark.s3
class TestCeph(StoreSuite):
    n_listed = 1005
    n_rounds = 2

    @pytest.fixture(params=["presigned", "obstore"])
    def store(self, request, ceph_url, ceph_options):
        needs(request.param)
        settings = Settings(io_concurrency=8, s3_reader=request.param)
        store = open_store(ceph_url, settings=settings, **ceph_options)
        yield store
        store.close()


class TestMoto(StoreSuite):
    n_rounds = 3
    n_threads = 8

    @pytest.fixture
    def store(self, moto_url):
        store = open_store(
            f"s3://moto/place-{next(numbers)}",
            settings=Settings(io_concurrency=8),
            endpoint_url=moto_url,
            access_key_id="x",
            secret_access_key="x",
        )
        yield store
        store.close()


def no_sleep(seconds):
    assert seconds >= 0


WRAPPERS = {
    "forward": ForwardingStore,
    "counting": CountingStore,
    "retry": lambda inner: RetryStore(inner, sleep=no_sleep),
    "latency": lambda inner: LatencyStore(inner, sleep=no_sleep),
    "faultless": lambda inner: FaultStore(inner, seeded_faults(0)),
    # The one that matters: a third of the calls fail or lose their answer, and retries hide it.
    "retried faults": lambda inner: RetryStore(
        FaultStore(inner, seeded_faults(7, error_rate=0.2, lost_rate=0.2)),
        n_retries=30,
        sleep=no_sleep,
        rng=random.Random(0),
    ),
}


class TestWrapped(StoreSuite):
    n_rounds = 2
    large_bytes = 3 << 19

    @pytest.fixture(params=WRAPPERS)
    def store(self, request):
        store = WRAPPERS[request.param](MemoryStore())
        yield store
        store.close()

    def test_large_body(self, store):
        data = bytes(range(256)) * 4096
        store.put("large", data)
        assert store.get("large", 1000) == data[1000:]


class TestWrappedLocal(StoreSuite):
    n_rounds = 2

    @pytest.fixture
    def store(self, tmp_path):
        inner = LatencyStore(CountingStore(LocalStore(tmp_path)), sleep=no_sleep)
        store = RetryStore(FaultStore(inner, seeded_faults(3, 0.1, 0.2)), n_retries=30, sleep=no_sleep)
        yield store
        store.close()


def test_the_suite_demands_its_fixture():
    with pytest.raises(NotImplementedError, match="override"):
        next(StoreSuite.store.__wrapped__(StoreSuite()))
