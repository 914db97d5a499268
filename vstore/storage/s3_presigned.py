"""Ranges of objects by presigned URLs and pooled connections: under a third of boto3's processor time.

A URL of an object is signed once, and each range is a plain GET of it: no request is built, signed and
parsed by boto3. Whatever a URL cannot do (redirects, servers and policies that refuse presigned URLs)
is read by boto3's get_object, so that errors are the same by both ways.
"""

from __future__ import annotations

import logging
import os
import random
import re
import socket
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import unquote, urlsplit

import botocore.session
import urllib3
from botocore.exceptions import ClientError
from botocore.httpsession import get_cert_path
from botocore.utils import get_environ_proxies
from urllib3.exceptions import ProtocolError

from vstore.errors import CorruptData, StorageError
from vstore.settings import Clock, Sleep
from vstore.storage.keys import past_end
from vstore.storage.retries import count_retry
from vstore.storage.s3_errors import S3_ERRORS, code_of, is_transient, status_of, store_error
from vstore.storage.s3_reader import ObjectReader, backoff_s, ignores_ranges

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

URL_LIFE_S = 3600
"""How long a URL is valid: also by a clock that is a quarter of an hour wrong, as S3 tolerates."""
SIGN_AGAIN_S = 300.0
"""Older URLs are signed anew; botocore renews temporary credentials 10 to 15 minutes before their end."""
MAX_URLS = 4096
"""URLs kept, of about 1 KiB each."""
BOTO_ONLY_S = 300.0
"""How long boto3 reads alone after it read what a new URL was refused."""

_CONTENT_RANGE = re.compile(r"bytes (\d+)-(\d+)/")
_CODE = re.compile(rb"<Code>([^<]{1,200})</Code>")
_MESSAGE = re.compile(rb"<Message>([^<]{1,1000})</Message>")
_SIGNATURE = "X-Amz-Signature="
_V4_QUERY: Final = "s3v4-query"
_RESIGNS_V4: Final = frozenset({"s3-query", "v4-query", _V4_QUERY})


class _HideSignedUrls(logging.Filter):
    """Cuts the query off signed URLs, which urllib3 logs at DEBUG."""

    def filter(self, record: logging.LogRecord) -> bool:
        if isinstance(record.args, tuple):
            record.args = tuple(
                arg.split("?")[0] if isinstance(arg, str) and _SIGNATURE in arg else arg
                for arg in record.args
            )
        return True


logging.getLogger("urllib3.connectionpool").addFilter(_HideSignedUrls())


@dataclass(frozen=True, slots=True, repr=False)
class _Signed:
    """An object's URL, as what is asked of which connections. Not to be printed."""

    pool: urllib3.HTTPConnectionPool
    target: str
    signed_at_s: float


class PresignedReader:
    """Reads by GETs of presigned URLs over pooled connections; an ObjectReader.

    A URL that is refused is signed anew; where a new one is refused too, `instead` reads, and its error is
    the answer. Where it succeeds, it reads alone for five minutes.

    Args:
        client: shared with the store, which closes it; signs.
        bucket: the bucket's name; no ARN and no directory bucket (see can_presign).
        root: what stands before every key, "" or ending in "/".
        where: the store's name in messages.
        missing: returns the error for a 404 (no object, or no bucket).
        instead: reads what presigned URLs cannot; boto3.
        n_connections: connections kept open.
        n_retries: further attempts after 5xx, throttling, lost connections and short bodies.
        sleep: waits between, uniformly between nothing and a doubling limit.
        clock: tells how old a URL is.
        rng: draws the jitter.
    """

    def __init__(
        self,
        client: S3Client,
        bucket: str,
        root: str,
        *,
        where: str,
        missing: Callable[[str], StorageError],
        instead: ObjectReader,
        n_connections: int,
        n_retries: int,
        sleep: Sleep,
        clock: Clock,
        rng: random.Random | None = None,
    ) -> None:
        self._client = client
        self._bucket = bucket
        self._root = root
        self._where = where
        self._missing = missing
        self._instead = instead
        self._n_retries = n_retries
        self._sleep = sleep
        self._clock = clock
        self._rng = rng or random.Random()
        self._headers = {"User-Agent": "vstore", "Accept-Encoding": "identity"}
        self._n_connections = n_connections
        self._managers: dict[str, urllib3.PoolManager] = {}
        self._urls: dict[str, _Signed] = {}
        self._lock = threading.Lock()
        self._boto_until_s = float("-inf")
        sign_as_get_object(client)

    def read(self, key: str, start: int, length: int | None) -> bytes:
        """Return the bytes of one range; see ObjectReader.read."""
        if self._clock() < self._boto_until_s:
            return self._instead.read(key, start, length)
        attempt, is_refused = 0, False
        while True:
            is_new = False
            try:
                signed, is_new = self._url_of(key)
                data = self._ask(signed, key, start, length)
                break
            except S3_ERRORS as error:
                if is_transient(error):
                    if attempt >= self._n_retries:
                        raise store_error(error, self._where, f"read {key!r}") from error
                    count_retry()
                    self._sleep(self._rng.uniform(0, backoff_s(attempt)))
                    attempt += 1
                    continue
                status = status_of(error)
                if status == 416:
                    raise CorruptData(past_end(self._where, key, start, length, None)) from error
                if status == 404:
                    raise self._missing(key) from error
                if not 300 <= status < 500:
                    raise store_error(error, self._where, f"read {key!r}") from error
                self._urls.pop(key, None)
                refusal = error
            if is_new or is_refused:
                return self._read_instead(key, start, length, refusal)
            is_refused = True
        if not data or (length is not None and len(data) < length):
            raise CorruptData(past_end(self._where, key, start, length, start + len(data)))
        return data if length is None or len(data) == length else data[:length]

    def close(self) -> None:
        """Release connections and forget the URLs."""
        with self._lock:
            managers = list(self._managers.values())
            self._managers.clear()
            self._urls.clear()
        for manager in managers:
            manager.clear()
        self._instead.close()

    def _read_instead(self, key: str, start: int, length: int | None, refusal: Exception) -> bytes:
        data = self._instead.read(key, start, length)
        # boto3 follows a bucket to its region and remembers it, so that the next URL is right.
        is_elsewhere = status_of(refusal) < 400 or code_of(refusal) == "AuthorizationQueryParametersError"
        if not is_elsewhere:
            self._boto_until_s = self._clock() + BOTO_ONLY_S
        return data

    def _url_of(self, key: str) -> tuple[_Signed, bool]:
        """Return the object's URL, and whether it was signed just now."""
        signed = self._urls.get(key)
        if signed is not None and self._is_young(signed):
            return signed, False
        with self._lock:
            signed = self._urls.get(key)
            if signed is not None and self._is_young(signed):
                return signed, False
            now_s = self._clock()
            url = self._client.generate_presigned_url(
                "get_object",
                Params={"Bucket": self._bucket, "Key": self._root + key},
                ExpiresIn=URL_LIFE_S,
            )
            parts = urlsplit(url)
            host = f"{parts.scheme}://{parts.netloc}"
            proxy = proxy_for(host)
            pool = self._manager(parts.scheme, proxy).connection_from_url(host)
            # A proxy is asked for the whole of a plain URL, and for a tunnel where there is TLS.
            target = url if proxy is not None and parts.scheme == "http" else f"{parts.path}?{parts.query}"
            if len(self._urls) >= MAX_URLS:
                self._urls.pop(next(iter(self._urls)), None)
            self._urls[key] = signed = _Signed(pool, target, now_s)
            return signed, True

    def _is_young(self, signed: _Signed) -> bool:
        return 0 <= self._clock() - signed.signed_at_s < SIGN_AGAIN_S

    def _manager(self, scheme: str, proxy: str | None) -> urllib3.PoolManager:
        name = f"{scheme} {proxy}"
        if name not in self._managers:
            config: Any = self._client.meta.config
            self._managers[name] = make_pools(
                scheme,
                proxy,
                n_connections=self._n_connections,
                connect_timeout_s=config.connect_timeout,
                read_timeout_s=config.read_timeout,
            )
        return self._managers[name]

    def _ask(self, signed: _Signed, key: str, start: int, length: int | None) -> bytes:
        """Send one GET and return its body.

        Raises:
            ClientError: the answer is an error.
            HTTPError: there is no answer, or not all of it.
            StorageError: the answer is not the range.
        """
        is_ranged = start > 0 or length is not None
        headers = self._headers
        if is_ranged:
            end = "" if length is None else str(start + length - 1)
            headers = headers | {"Range": f"bytes={start}-{end}"}
        response = signed.pool.urlopen(
            "GET",
            signed.target,
            headers=headers,
            retries=False,
            redirect=False,
            assert_same_host=False,
            preload_content=False,
            decode_content=False,
        )
        is_read = False
        try:
            if response.status == 200 and is_ranged:
                raise ignores_ranges(self._where, key)
            data = response.read(decode_content=False)
            is_read = True
        finally:
            if not is_read:
                response.close()
            response.release_conn()
        if response.status not in (200, 206):
            raise as_client_error(response.status, data)
        if response.status == 206:
            _check_range(response.headers, data, start, ignores_ranges(self._where, key))
        return data


def _check_range(headers: Mapping[str, str], data: bytes, start: int, other: StorageError) -> None:
    """Raise where the body is not what its Content-Range says, or begins elsewhere (then: `other`)."""
    found = _CONTENT_RANGE.match(headers.get("Content-Range", ""))
    if found is None:
        return
    first, last = int(found[1]), int(found[2])
    if first != start:
        raise other
    if len(data) != last - first + 1:
        raise ProtocolError(f"the body has {len(data)} bytes instead of {last - first + 1}")


def can_presign(bucket: str) -> bool:
    """Whether GETs of the bucket may be presigned for some minutes: not of ARNs and directory buckets."""
    return not bucket.startswith("arn:") and not bucket.endswith("--x-s3")


def sign_as_get_object(client: S3Client) -> None:
    """Make the client presign with Signature Version 4 and for the endpoint that get_object itself asks.

    By default boto3 presigns with Version 2 in old regions, and for the global endpoint, which redirects.
    """

    def choose_version(signature_version: Any, **rest: Any) -> str | None:
        return _V4_QUERY if signature_version in _RESIGNS_V4 else None

    def choose_endpoint(context: dict[str, Any], **rest: Any) -> None:
        if context.get("is_presign_request"):
            context["use_global_endpoint"] = False

    events: Any = client.meta.events
    events.register_first("choose-signer.s3.GetObject", choose_version, unique_id="vstore-presign-version")
    events.register(
        "before-parameter-build.s3.GetObject", choose_endpoint, unique_id="vstore-presign-endpoint"
    )


def proxy_for(url: str) -> str | None:
    """Return the proxy of the environment for the URL, as botocore takes it (HTTPS_PROXY, NO_PROXY, ...)."""
    proxy: str | None = get_environ_proxies(url).get(urlsplit(url).scheme)
    if not proxy or proxy.startswith(("http:", "https:")):
        return proxy or None
    return f"http:{proxy}" if proxy.startswith("//") else f"http://{proxy}"


def ca_bundle() -> str:
    """Return the file of trusted certificates, as botocore takes it: AWS_CA_BUNDLE, ca_bundle, certifi's."""
    verify: Any = botocore.session.Session().get_config_variable("ca_bundle")
    verify = verify or os.environ.get("REQUESTS_CA_BUNDLE") or True
    return str(get_cert_path(verify))


def make_pools(
    scheme: str,
    proxy: str | None,
    *,
    n_connections: int,
    connect_timeout_s: float,
    read_timeout_s: float,
) -> urllib3.PoolManager:
    """Return pools of connections, verified where there is TLS, through the proxy where there is one."""
    options: dict[str, Any] = {
        "maxsize": n_connections,
        "timeout": urllib3.Timeout(connect=connect_timeout_s, read=read_timeout_s),
        "socket_options": [
            (socket.IPPROTO_TCP, socket.TCP_NODELAY, 1),
            (socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1),
        ],
    }
    if scheme == "https" or (proxy is not None and proxy.startswith("https:")):
        options |= {"cert_reqs": "CERT_REQUIRED", "ca_certs": ca_bundle()}
    if proxy is None:
        return urllib3.PoolManager(**options)
    parts = urlsplit(proxy)
    if parts.username and parts.password:
        login = f"{unquote(parts.username)}:{unquote(parts.password)}"
        options["proxy_headers"] = urllib3.make_headers(proxy_basic_auth=login)
    return urllib3.ProxyManager(proxy, **options)


def as_client_error(status: int, body: bytes) -> ClientError:
    """Return the error that botocore would make of S3's answer: its code and message, nothing else of it."""
    code, message = _CODE.search(body), _MESSAGE.search(body)
    answer: Any = {
        "Error": {
            "Code": code[1].decode(errors="replace") if code else str(status),
            "Message": message[1].decode(errors="replace") if message else "no message",
        },
        "ResponseMetadata": {"HTTPStatusCode": status},
    }
    return ClientError(answer, "GetObject")
