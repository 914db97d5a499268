"""What presigned reads add: URLs that grow old, refusals, odd answers, proxies, certificates, and silence."""

from __future__ import annotations

import datetime
import ipaddress
import logging
import random
import ssl
import threading
import traceback

import pytest
import urllib3
from fault_proxy import DOWN, EXPIRED, HALF, LOST_CUT, MOVED, OTHER_RANGE, UNTOLD, FaultProxy
from urllib3.exceptions import ProtocolError

from vstore.errors import AccessDenied, InvalidSetting, ObjectNotFound, StorageError, StoreUnavailable
from vstore.settings import Settings
from vstore.storage import ByteRange, open_store
from vstore.storage import s3_presigned as module
from vstore.storage.s3 import S3Store
from vstore.storage.s3_client import S3Access, S3Options
from vstore.storage.s3_listing import parse_page
from vstore.storage.s3_pools import ca_bundle, make_pools, proxy_for
from vstore.storage.s3_presigned import BOTO_ONLY_S, SIGN_AGAIN_S, PresignedReader, as_client_error
from vstore.storage.s3_reader import BotoReader
from vstore.storage.s3_signing import can_presign, plain_base

pytestmark = pytest.mark.s3
DATA = random.Random(1).randbytes(50_000)


class Clock:
    def __init__(self):
        self.now_s = 1000.0

    def __call__(self):
        return self.now_s


class Place:
    """A store behind the proxy, with `a` in it; counts waits, signatures and boto3's reads."""

    def __init__(self, url, options, proxy, n_retries):
        self.clock, self.waits_s, self.signed, self.by_boto = Clock(), [], [], []
        settings = Settings(
            n_retries=n_retries, io_concurrency=8, sleep=self.waits_s.append, clock=self.clock
        )
        options = options | {"endpoint_url": proxy.endpoint_url}
        self.store = open_store(url, settings=settings, **options)
        self.store.put("a", DATA)
        client = self.store._client
        self.count(client, "generate_presigned_url", self.signed)
        self.count(self.store._reader._signer, "object_url", self.signed)
        self.count(client, "get_object", self.by_boto)
        self.proxy = proxy

    def count(self, client, name, calls):
        real = getattr(client, name)

        def counted(*args, **kwargs):
            calls.append(kwargs or args)
            return real(*args, **kwargs)

        setattr(client, name, counted)

    def gets(self):
        return [step for method, step in self.proxy.seen if method == "GET"]


@pytest.fixture
def make_place(s3_server, s3_url, s3_options):
    places = []

    def make(n_retries=0):
        proxy = FaultProxy(s3_server.endpoint_url)
        places.append(Place(s3_url, s3_options, proxy, n_retries))
        return places[-1]

    yield make
    for place in places:
        place.store.close()
        place.proxy.close()


# ---- URLs


def test_a_key_is_signed_once_until_it_is_old(make_place):
    place = make_place()
    for start in range(20):
        assert place.store.get("a", start, 100) == DATA[start : start + 100]
    assert len(place.signed) == 1
    place.clock.now_s += SIGN_AGAIN_S - 1
    place.store.get("a", 0, 1)
    assert len(place.signed) == 1
    place.clock.now_s += 1
    place.store.get("a", 0, 1)
    assert len(place.signed) == 2
    place.clock.now_s -= 100
    place.store.get("a", 0, 1)
    assert len(place.signed) == 3
    assert not place.by_boto


def test_threads_share_one_signature(make_place):
    place = make_place()
    barrier = threading.Barrier(8)
    got = []

    def read(i):
        barrier.wait()
        got.append(place.store.get("a", i, 5) == DATA[i : i + 5])

    threads = [threading.Thread(target=read, args=(i,)) for i in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert got == [True] * 8
    assert len(place.signed) == 1


def test_urls_are_bounded(make_place, monkeypatch):
    monkeypatch.setattr(module, "MAX_URLS", 3)
    place = make_place()
    for i in range(6):
        place.store.put(f"b/{i}", b"x")
        place.store.get(f"b/{i}")
    assert list(place.store._reader._urls) == ["b/3", "b/4", "b/5"]


def test_an_expired_url_is_signed_again(make_place):
    place = make_place()
    place.store.get("a", 0, 1)
    place.proxy.script["GET"] = [EXPIRED]
    assert place.store.get("a", 5, 5) == DATA[5:10]
    assert len(place.signed) == 2
    assert place.gets() == ["pass", EXPIRED, "pass"]
    assert not place.by_boto
    assert not place.waits_s


def test_where_new_urls_are_refused_boto3_reads_for_a_while(make_place):
    place = make_place()
    place.proxy.script["GET"] = [EXPIRED]
    assert place.store.get("a", 5, 5) == DATA[5:10]
    assert place.store.get("a", 6, 5) == DATA[6:11]
    assert (len(place.signed), len(place.by_boto)) == (1, 2)
    place.clock.now_s += BOTO_ONLY_S
    assert place.store.get("a", 7, 5) == DATA[7:12]
    assert (len(place.signed), len(place.by_boto)) == (2, 2)


def test_the_error_of_a_refusal_is_that_of_boto3(make_place):
    place = make_place()
    place.proxy.script["GET"] = [EXPIRED, EXPIRED]
    with pytest.raises(AccessDenied, match=r"Request has expired.*check the credentials"):
        place.store.get("a", 5, 5)
    assert place.store.get("a", 5, 5) == DATA[5:10]
    assert (len(place.signed), len(place.by_boto)) == (2, 1)


def test_a_redirect_is_left_to_boto3_once(make_place):
    place = make_place()
    place.proxy.script["GET"] = [MOVED]
    assert place.store.get("a", 5, 5) == DATA[5:10]
    assert place.store.get("a", 6, 5) == DATA[6:11]
    assert (len(place.signed), len(place.by_boto)) == (2, 1)


# ---- retries


@pytest.mark.parametrize("fault", [DOWN, HALF, LOST_CUT, "lost 500", UNTOLD])
def test_what_may_pass_is_asked_again(make_place, fault):
    place = make_place(2)
    place.proxy.script["GET"] = [fault, fault]
    assert place.store.get("a", 100, 10_000) == DATA[100:10_100]
    assert len(place.waits_s) == 2
    assert all(0 <= wait_s <= Settings().backoff_s(i) for i, wait_s in enumerate(place.waits_s))
    place.proxy.script["GET"] = [fault] * 3
    with pytest.raises(StoreUnavailable, match="try again"):
        place.store.get("a", 100, 10_000)
    assert len(place.waits_s) == 4
    assert len(set(place.waits_s)) == 4
    assert not place.by_boto


def test_the_waits_are_settings():
    chosen = Settings(retry_first_s=0.2, retry_longest_s=0.5)
    assert [chosen.backoff_s(i) for i in (0, 1, 2, 5000)] == [0.2, 0.4, 0.5, 0.5]
    for first_s, longest_s in ((-1, 2), (3, 2), (float("nan"), 2)):
        with pytest.raises(InvalidSetting, match="retry_first_s"):
            Settings(retry_first_s=first_s, retry_longest_s=longest_s)


def test_what_stays_is_not_asked_again(make_place):
    place = make_place(5)
    with pytest.raises(ObjectNotFound):
        place.store.get("absent", 0, 1)
    assert place.gets() == ["pass"]
    assert not place.waits_s


def test_another_range_is_not_taken(make_place):
    place = make_place()
    place.proxy.script["GET"] = [OTHER_RANGE]
    with pytest.raises(StorageError, match="ignores ranges"):
        place.store.get("a", 100, 100)


def test_many_ranges_while_a_third_of_the_answers_fail(make_place):
    place = make_place(20)
    rng = random.Random(5)
    place.proxy.script["GET"] = rng.choices([DOWN, HALF, LOST_CUT, UNTOLD] + ["pass"] * 10, k=300)
    ranges = [ByteRange("a", rng.randrange(40_000), rng.randrange(1, 9_000)) for _ in range(60)]
    for _ in range(5):
        assert [place.store.get(*r) for r in ranges] == [DATA[r.start : r.start + r.length] for r in ranges]


# ---- silence


def test_urls_are_in_no_log_and_no_error(make_place, caplog):
    place = make_place(1)
    caplog.set_level(logging.DEBUG, logger="urllib3")
    with caplog.at_level(logging.DEBUG, logger="vstore"):
        place.store.get("a", 0, 10)
        place.proxy.script["GET"] = [DOWN, HALF, HALF]
        errors = []
        for key in ("a", "absent", "a"):
            try:
                place.store.get(key, 0, 1000)
            except StorageError as error:
                errors.append("".join(traceback.format_exception(error)))
    text = caplog.text
    assert "GET 127.0.0.1" in text
    assert len(errors) == 2
    assert all("X-Amz" not in shown for shown in [text, *errors])
    assert "X-Amz" not in repr(place.store._reader._urls)


# ---- without a client


def test_reads_and_lists_need_no_client(s3_url, s3_options):
    s3_url = f"{s3_url}/p é+%41"
    near = open_store(s3_url, **s3_options)
    names = ["a+c", "a.=b", "a/d", "b"]
    for name in names:
        near.put(name, name.encode())
    near.close()
    store = open_store(s3_url, settings=Settings(n_retries=0), **s3_options)
    assert [store.get(name).decode() for name in names] == names
    assert [info.key for info in store.list()] == names
    assert [info.key for info in store.list("a")] == names[:3]
    assert sorted(name for name, _ in store._names(store._root, 1)) == [store._root + name for name in names]
    assert store.list("c") == []
    assert store._access._client is None
    store.delete(["b"])
    assert store._access._client is not None
    store.close()


def test_listings_are_asked_again_and_left_to_boto3(make_place):
    place = make_place(2)
    place.proxy.script["GET"] = [DOWN, HALF]
    assert [info.key for info in place.store.list()] == ["a"]
    assert len(place.waits_s) == 2
    place.proxy.script["GET"] = [EXPIRED]
    assert [info.key for info in place.store.list()] == ["a"]
    place.proxy.script["GET"] = [EXPIRED, EXPIRED]
    with pytest.raises(AccessDenied, match="Request has expired"):
        place.store.list()
    place.proxy.script["GET"] = [LOST_CUT] * 3
    with pytest.raises(StoreUnavailable, match="try again"):
        place.store.list()


@pytest.mark.parametrize(
    ("body", "said"),
    [
        (b"<html>", "no XML"),
        (b"<Other/>", "'Other'"),
        (b"<ListBucketResult><Contents><Key>a</Key></Contents></ListBucketResult>", "without a name"),
        (b"<ListBucketResult><IsTruncated>true</IsTruncated></ListBucketResult>", "no token"),
    ],
)
def test_what_is_no_listing(body, said):
    with pytest.raises(ProtocolError, match=said):
        parse_page(body)


@pytest.mark.parametrize("variable", ["AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL", "AWS_USE_FIPS_ENDPOINT"])
def test_addresses_that_boto3_must_know(monkeypatch, variable, tmp_path):
    def base(bucket="bucket", **options):
        options = {"region": "eu-west-1", "access_key_id": "a", "secret_access_key": "b"} | options
        return plain_base(S3Access(S3Options(**options), Settings()), bucket)

    assert base() == "https://bucket.s3.eu-west-1.amazonaws.com"
    assert base("with.dots") is None
    assert base(region="us-iso-east-1") is None
    assert base(endpoint_url="https://s3.eu-west-1.amazonaws.com") is None
    assert base("with.dots", endpoint_url="http://host:1/p/") == "http://host:1/p/with.dots"
    monkeypatch.setenv(variable, "true" if "FIPS" in variable else "http://elsewhere:1")
    assert base() is None
    monkeypatch.delenv(variable)
    (tmp_path / "config").write_text("[default]\ns3 =\n    use_accelerate_endpoint = true\n")
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "config"))
    assert base() is None
    monkeypatch.setenv("AWS_PROFILE", "absent")
    with pytest.raises(InvalidSetting, match="absent"):
        base()


# ---- places


def test_the_choice_of_the_reader(s3_options):
    def reader_of(bucket="bucket", **settings):
        store = S3Store(bucket, options=S3Options(**s3_options), settings=Settings(**settings))
        store.close()
        return type(store._reader)

    assert reader_of() is PresignedReader
    assert reader_of(s3_reader="presigned") is PresignedReader
    assert reader_of(s3_reader="boto3") is BotoReader
    assert reader_of("express--use1-az4--x-s3") is BotoReader
    assert not can_presign("arn:aws:s3::123456789012:accesspoint/some.mrap")
    with pytest.raises(InvalidSetting, match="s3_reader is 'fast'"):
        Settings(s3_reader="fast")


@pytest.mark.parametrize("region", ["us-east-1", "eu-west-1", "eu-south-2", "cn-north-1"])
@pytest.mark.parametrize("style", [None, "path", "virtual"])
def test_urls_go_where_get_object_goes_and_carry_the_token(region, style):
    """By default boto3 presigns for the global endpoint, with Version 2: new buckets refuse both."""
    options = S3Options(
        region=region,
        access_key_id="id",
        secret_access_key="hidden",
        session_token="token+/=",
        addressing_style=style,
    )
    store = S3Store("bucket", "p é", options=options)
    asked = []

    class Stop(Exception):
        pass

    def stop(request, **rest):
        asked.append(request.url)
        raise Stop

    store._client.meta.events.register("before-send.s3.GetObject", stop)
    with pytest.raises(Stop):
        store._client.get_object(Bucket="bucket", Key="p é/k=+")
    signed, _ = store._reader._url_of("k=+")
    store.close()
    path, query = signed.target.split("?")
    assert f"{signed.pool.scheme}://{signed.pool.host}{path}" == asked[0]
    assert "X-Amz-Algorithm=AWS4-HMAC-SHA256" in query
    assert f"%2F{region}%2Fs3%2Faws4_request" in query
    assert "X-Amz-Security-Token=token%2B%2F%3D" in query
    assert "hidden" not in query


def test_a_session_token_is_sent(s3_url, s3_options, s3_server):
    """The server knows no tokens, and refuses it by both ways."""
    proxy = FaultProxy(s3_server.endpoint_url)
    options = s3_options | {"endpoint_url": proxy.endpoint_url, "session_token": "t"}
    store = open_store(s3_url, settings=Settings(n_retries=0), **options)
    with pytest.raises(AccessDenied):
        store.get("a")
    assert [method for method, _ in proxy.seen].count("GET") == 2
    store.close()
    proxy.close()


def test_proxies_of_the_environment(monkeypatch):
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY", "http_proxy", "https_proxy", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
    assert proxy_for("https://host") is None
    monkeypatch.setenv("https_proxy", "gate:3128")
    monkeypatch.setenv("http_proxy", "//gate:1")
    monkeypatch.setenv("no_proxy", "inside.org")
    assert proxy_for("https://host") == "http://gate:3128"
    assert proxy_for("http://host") == "http://gate:1"
    assert proxy_for("https://a.inside.org") is None


def test_reads_go_through_a_proxy(s3_url, s3_options, s3_server, monkeypatch):
    near = open_store(s3_url, settings=Settings(), **s3_options)
    near.put("a", DATA)
    near.close()
    gate = FaultProxy(s3_server.endpoint_url)
    # The gate forwards to the server whatever host it is asked for.
    for name in ("NO_PROXY", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("http_proxy", gate.endpoint_url.replace("http://", "http://me:pass@"))
    options = s3_options | {"endpoint_url": "http://s3.nowhere.invalid"}
    store = open_store(s3_url, settings=Settings(n_retries=0), **options)
    assert store.get("a", 10, 10) == DATA[10:20]
    assert store.get("a") == DATA
    assert gate.seen == [("GET", "pass")] * 2
    store.close()
    gate.close()


@pytest.fixture(scope="module")
def certificate(tmp_path_factory):
    """A file with a key and a certificate of itself for 127.0.0.1."""
    pytest.importorskip("cryptography")
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "127.0.0.1")])
    address = x509.IPAddress(ipaddress.ip_address("127.0.0.1"))
    made = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
        .not_valid_before(datetime.datetime(2020, 1, 1))
        .not_valid_after(datetime.datetime(2120, 1, 1))
        .add_extension(x509.SubjectAlternativeName([address]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    encoding = serialization.Encoding.PEM
    secret = key.private_bytes(encoding, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    path = tmp_path_factory.mktemp("tls") / "own.pem"
    path.write_bytes(secret + made.public_bytes(encoding))
    return path


@pytest.mark.parametrize("reader", ["presigned", "boto3"])
@pytest.mark.parametrize("variable", ["AWS_CA_BUNDLE", "REQUESTS_CA_BUNDLE", None])
def test_certificates_are_verified(s3_url, s3_options, s3_server, certificate, monkeypatch, reader, variable):
    for name in ("AWS_CA_BUNDLE", "REQUESTS_CA_BUNDLE"):
        monkeypatch.delenv(name, raising=False)
    near = open_store(s3_url, settings=Settings(), **s3_options)
    near.put("a", DATA)
    near.close()
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls.load_cert_chain(certificate)
    proxy = FaultProxy(s3_server.endpoint_url, tls)
    if variable:
        monkeypatch.setenv(variable, str(certificate))
    options = s3_options | {"endpoint_url": proxy.endpoint_url}
    store = open_store(s3_url, settings=Settings(n_retries=0, s3_reader=reader), **options)
    if variable:
        assert store.get("a", 10, 10) == DATA[10:20]
    else:
        with pytest.raises(StoreUnavailable, match=r"(?i)certificate verify failed"):
            store.get("a", 10, 10)
        assert not proxy.seen
    store.close()
    proxy.close()


def test_pools_verify_and_know_proxies(monkeypatch, tmp_path):
    monkeypatch.setenv("AWS_CA_BUNDLE", str(tmp_path / "own.pem"))
    assert ca_bundle() == str(tmp_path / "own.pem")
    limits = dict(n_connections=7, connect_timeout_s=1, read_timeout_s=2)
    direct = make_pools("https", None, **limits).connection_pool_kw
    assert (direct["cert_reqs"], direct["ca_certs"], direct["maxsize"]) == (
        "CERT_REQUIRED",
        str(tmp_path / "own.pem"),
        7,
    )
    through = make_pools("http", "http://me:p%40ss@gate:1", **limits)
    assert isinstance(through, urllib3.ProxyManager)
    assert through.proxy_headers["proxy-authorization"].startswith("Basic ")
    monkeypatch.delenv("AWS_CA_BUNDLE")
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", "/its.pem")
    assert ca_bundle() == "/its.pem"
    monkeypatch.delenv("REQUESTS_CA_BUNDLE")
    assert ca_bundle().endswith(".pem")


def test_answers_become_errors_of_botocore():
    body = b"<Error><Code>X</Code><Message>why</Message><StringToSign>s</StringToSign>"
    error = as_client_error(403, body, "GetObject")
    assert "X" in str(error)
    assert "why" in str(error)
    assert "s</" not in str(error)
    assert as_client_error(502, b"<html>", "GetObject").response["Error"]["Code"] == "502"
