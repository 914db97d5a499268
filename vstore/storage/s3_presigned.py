"""Ranges and listings by presigned URLs and pooled connections: under a third of boto3's processor time.

A URL of an object is signed once, and each range is a plain GET of it: no request is built, signed and
parsed by boto3, whose client need not even be made. Connections are those of `s3_wire`, or urllib3's through
a proxy. Whatever a URL cannot do (redirects, servers and policies that refuse presigned URLs) is read by
boto3's get_object, so that errors are the same by both ways.
"""

from __future__ import annotations

import logging
import random
import re
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

import urllib3
from botocore.exceptions import ClientError
from urllib3.exceptions import ProtocolError

from vstore.errors import CorruptData, StorageError
from vstore.settings import Settings
from vstore.storage.keys import past_end
from vstore.storage.retries import count_retry
from vstore.storage.s3_client import CONNECT_TIMEOUT_S, READ_TIMEOUT_S
from vstore.storage.s3_errors import S3_ERRORS, code_of, is_transient, status_of, store_error
from vstore.storage.s3_listing import Page, parse_page
from vstore.storage.s3_pools import make_pools, proxy_for
from vstore.storage.s3_reader import ObjectReader, ignores_ranges
from vstore.storage.s3_signing import Signer
from vstore.storage.s3_wire import Wire

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
    wire: Wire | None
    target: str
    signed_at_s: float


class PresignedReader:
    """Reads by GETs of presigned URLs over pooled connections; an ObjectReader.

    A URL that is refused is signed anew; where a new one is refused too, `instead` reads, and its error is
    the answer. Where it succeeds, it reads alone for five minutes.

    Args:
        signer: signs, while the bucket is where it thinks.
        later: signs once it was elsewhere; boto3, which then knows the place.
        root: what stands before every key, "" or ending in "/".
        where: the store's name in messages.
        missing: returns the error for a 404 (no object, or no bucket).
        instead: reads what presigned URLs cannot; boto3.
        settings: n_retries further attempts follow 5xx, throttling, lost connections and short bodies, after
            waits (`sleep`) uniformly between nothing and `backoff_s`; io_concurrency connections are kept
            open; clock tells how old a URL is.
        rng: draws the jitter.
    """

    def __init__(
        self,
        signer: Signer,
        later: Signer,
        root: str,
        *,
        where: str,
        missing: Callable[[str], StorageError],
        instead: ObjectReader,
        settings: Settings,
        rng: random.Random | None = None,
    ) -> None:
        self._signer = signer
        self._later = later
        self._root = root
        self._where = where
        self._missing = missing
        self._instead = instead
        self._settings = settings
        self._n_retries, self._sleep, self._clock = settings.n_retries, settings.sleep, settings.clock
        self._rng = rng or random.Random()
        self._headers = {"User-Agent": "vstore", "Accept-Encoding": "identity"}
        self._managers: dict[str, urllib3.PoolManager] = {}
        self._wires: dict[str, Wire] = {}
        self._urls: dict[str, _Signed] = {}
        self._lock = threading.Lock()
        self._boto_until_s = float("-inf")

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
                    self._pause(attempt)
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

    def page(self, params: Mapping[str, str]) -> Page | None:
        """Return a page of a listing; see ListsPages.page."""
        if self._clock() < self._boto_until_s:
            return None
        attempt = 0
        while True:
            try:
                url = self._signer.list_url(params)
                if url is None:
                    return None
                return parse_page(self._body(self._place_of(url, 0.0), {}, "ListObjectsV2")[1])
            except S3_ERRORS as error:
                if not is_transient(error):
                    return None
                if attempt >= self._n_retries:
                    raise
                self._pause(attempt)
                attempt += 1

    def close(self) -> None:
        """Release connections and forget the URLs."""
        with self._lock:
            managers, wires = list(self._managers.values()), list(self._wires.values())
            self._managers.clear()
            self._wires.clear()
            self._urls.clear()
        for manager in managers:
            manager.clear()
        for wire in wires:
            wire.close()
        self._instead.close()

    def _pause(self, attempt: int) -> None:
        """Count a request that is sent again, and wait before it."""
        count_retry()
        self._sleep(self._rng.uniform(0, self._settings.backoff_s(attempt)))

    def _read_instead(self, key: str, start: int, length: int | None, refusal: Exception) -> bytes:
        data = self._instead.read(key, start, length)
        # boto3 follows a bucket to its region and remembers it, so that the next URL is right.
        is_elsewhere = status_of(refusal) < 400 or code_of(refusal) == "AuthorizationQueryParametersError"
        if is_elsewhere:
            self._signer = self._later
        else:
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
            signed = self._place_of(self._signer.object_url(self._root + key), now_s)
            if len(self._urls) >= MAX_URLS:
                self._urls.pop(next(iter(self._urls)), None)
            self._urls[key] = signed
            return signed, True

    def _place_of(self, url: str, now_s: float) -> _Signed:
        parts = urlsplit(url)
        host = f"{parts.scheme}://{parts.netloc}"
        proxy = proxy_for(host)
        pool = self._manager(parts.scheme, proxy).connection_from_url(host)
        # A proxy is asked for the whole of a plain URL, and for a tunnel where there is TLS.
        target = url if proxy is not None and parts.scheme == "http" else f"{parts.path}?{parts.query}"
        return _Signed(pool, self._wire(host) if proxy is None else None, target, now_s)

    def _wire(self, host: str) -> Wire:
        if host not in self._wires:
            self._wires[host] = Wire(
                urlsplit(host),
                n_connections=self._settings.io_concurrency + 2,
                connect_timeout_s=CONNECT_TIMEOUT_S,
                read_timeout_s=READ_TIMEOUT_S,
            )
        return self._wires[host]

    def _is_young(self, signed: _Signed) -> bool:
        return 0 <= self._clock() - signed.signed_at_s < SIGN_AGAIN_S

    def _manager(self, scheme: str, proxy: str | None) -> urllib3.PoolManager:
        name = f"{scheme} {proxy}"
        if name not in self._managers:
            self._managers[name] = make_pools(
                scheme,
                proxy,
                n_connections=self._settings.io_concurrency + 2,
                connect_timeout_s=CONNECT_TIMEOUT_S,
                read_timeout_s=READ_TIMEOUT_S,
            )
        return self._managers[name]

    def _ask(self, signed: _Signed, key: str, start: int, length: int | None) -> bytes:
        """Send one GET of a range and return its body.

        Raises:
            ClientError: the answer is an error.
            HTTPError: there is no answer, or not all of it.
            StorageError: the answer is not the range.
        """
        if start == 0 and length is None:
            return self._body(signed, {}, "GetObject")[1]
        end = "" if length is None else str(start + length - 1)
        other = ignores_ranges(self._where, key)
        headers, data = self._body(signed, {"Range": f"bytes={start}-{end}"}, "GetObject", other)
        _check_range(headers, data, start, other)
        return data

    def _body(
        self, signed: _Signed, headers: dict[str, str], operation: str, whole: StorageError | None = None
    ) -> tuple[Mapping[str, str], bytes]:
        """Send one GET and return the headers and the body; `whole` is raised for an answer of status 200.

        `operation` is S3's name of what is asked, for errors.
        """
        if signed.wire is not None:
            answer = signed.wire.get(signed.target, self._headers | headers, but_not=200 if whole else 0)
            if answer.body is None:
                assert whole is not None
                raise whole
            if answer.status not in (200, 206):
                raise as_client_error(answer.status, answer.body, operation)
            return answer.headers, answer.body
        response = signed.pool.urlopen(
            "GET",
            signed.target,
            headers=self._headers | headers,
            retries=False,
            redirect=False,
            assert_same_host=False,
            preload_content=False,
            decode_content=False,
        )
        is_read = False
        try:
            if response.status == 200 and whole is not None:
                raise whole
            data = response.read(decode_content=False)
            is_read = True
        finally:
            if not is_read:
                response.close()
            response.release_conn()
        if response.status not in (200, 206):
            raise as_client_error(response.status, data, operation)
        return response.headers, data


def _check_range(headers: Mapping[str, str], data: bytes, start: int, other: StorageError) -> None:
    """Raise where the body is not what its Content-Range says, or begins elsewhere (then: `other`)."""
    found = _CONTENT_RANGE.match(headers.get("content-range", ""))
    if found is None:
        return
    first, last = int(found[1]), int(found[2])
    if first != start:
        raise other
    if len(data) != last - first + 1:
        raise ProtocolError(f"the body has {len(data)} bytes instead of {last - first + 1}")


def as_client_error(status: int, body: bytes, operation: str) -> ClientError:
    """Return the error that botocore would make of S3's answer: its code and message, nothing else of it."""
    code, message = _CODE.search(body), _MESSAGE.search(body)
    answer: Any = {
        "Error": {
            "Code": code[1].decode(errors="replace") if code else str(status),
            "Message": message[1].decode(errors="replace") if message else "no message",
        },
        "ResponseMetadata": {"HTTPStatusCode": status},
    }
    return ClientError(answer, operation)
