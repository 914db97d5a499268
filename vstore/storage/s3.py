"""Objects in a bucket of S3, or of a server that speaks it."""

from __future__ import annotations

import io
import re
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from contextvars import copy_context
from typing import TYPE_CHECKING, Any

from botocore.exceptions import ClientError

from vstore.errors import (
    BucketNotFound,
    Closed,
    CorruptData,
    InvalidInput,
    ObjectExists,
    ObjectNotFound,
    StorageError,
    StoreUnavailable,
)
from vstore.settings import Settings, require
from vstore.storage.base import ByteRange, ObjectInfo
from vstore.storage.coalesce import Fetch, plan_coalesce, split_fetches
from vstore.storage.keys import check_body, check_key, check_prefix, check_range
from vstore.storage.s3_client import S3Access, S3Options
from vstore.storage.s3_errors import S3_ERRORS, code_of, is_transient, status_of, store_error, translated
from vstore.storage.s3_listing import ListsPages, Page
from vstore.storage.s3_presigned import PresignedReader
from vstore.storage.s3_reader import BotoReader, ObjectReader, ReadsGroups
from vstore.storage.s3_signing import ClientSigner, can_presign, signer_for
from vstore.storage.s3_upload import MultipartUpload
from vstore.storage.upload import Sink

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client
    from mypy_boto3_s3.type_defs import ObjectIdentifierTypeDef

MULTIPART_BYTES = 64 << 20
"""Bodies longer than this go up in parts, some at once."""
PART_BYTES = 16 << 20
MAX_CREATE_BYTES = 5 << 30
"""The most that one PutObject takes; a conditional put is never done in parts."""
DELETE_KEYS = 1000
"""The most that one DeleteObjects takes."""
_UNSETTLED_ATTEMPTS = 8


class S3Store:
    """An ObjectStore in a bucket, under a prefix.

    Reads go through an ObjectReader on a pool of `settings.io_concurrency` threads; near ranges are read as
    one request. Commits are plain PutObject with If-None-Match: *; an answer that is lost is settled by
    reading the object back. Make one store in each process: clients do not survive a fork.

    Args:
        bucket: the bucket's name; it exists already.
        prefix: what stands before every key, with or without slashes around.
        options: endpoint, region, credentials; default: boto3's usual chain.
        settings: io_concurrency, coalesce_gap_bytes, coalesce_max_bytes, n_retries, retry waits, s3_reader,
            clock and sleep are used.
        make_reader: given (client, bucket, root) returns the ObjectReader; default: settings.s3_reader's.

    Raises:
        InvalidSetting: a bucket name, prefix or option that cannot be.
        MissingDependency: botocore is too old.
    """

    def __init__(
        self,
        bucket: str,
        prefix: str = "",
        *,
        options: S3Options | None = None,
        settings: Settings | None = None,
        make_reader: Callable[[S3Client, str, str], ObjectReader] | None = None,
    ) -> None:
        options = options or S3Options()
        self._settings = settings or Settings()
        _check_place(bucket, prefix)
        prefix = prefix.strip("/")
        self._bucket = bucket
        self._root = f"{prefix}/" if prefix else ""
        self.url = f"s3://{bucket}/{prefix}" if prefix else f"s3://{bucket}"
        self._where = f"{self.url} at {options.endpoint_url}" if options.endpoint_url else self.url
        self._access = S3Access(options, self._settings)
        self._reader: ObjectReader = (
            make_reader(self._access.client, bucket, self._root)
            if make_reader is not None
            else self._own_reader(options)
        )
        self._pool: ThreadPoolExecutor | None = None
        self._lock = threading.Lock()
        self._bucket_seen = False
        self._closed = False

    def _own_reader(self, options: S3Options) -> ObjectReader:
        settings = self._settings
        boto = BotoReader(
            self._access,
            self._bucket,
            self._root,
            where=self._where,
            missing=self._missing,
            settings=settings,
        )
        if settings.s3_reader == "obstore":
            from vstore.storage.s3_obstore import ObstoreReader

            return ObstoreReader(
                self._bucket,
                self._root,
                options=options,
                settings=settings,
                where=self._where,
                missing=self._missing,
            )
        if settings.s3_reader == "boto3" or not can_presign(self._bucket):
            return boto
        return PresignedReader(
            signer_for(self._access, self._bucket),
            ClientSigner(self._access, self._bucket),
            self._root,
            where=self._where,
            missing=self._missing,
            instead=boto,
            settings=settings,
        )

    @property
    def _client(self) -> S3Client:
        return self._access.client

    def __repr__(self) -> str:
        return f"S3Store({self._where!r})"

    def get(self, key: str, start: int = 0, length: int | None = None) -> bytes:
        """Return the bytes of a range; see ObjectStore.get."""
        self._check_open()
        check_range(key, start, length)
        return b"" if length == 0 else self._reader.read(key, start, length)

    def plan(self, ranges: Sequence[ByteRange]) -> list[Fetch]:
        """Return the requests that `get_many(ranges)` sends."""
        return plan_coalesce(ranges, self._settings.coalesce_gap_bytes, self._settings.coalesce_max_bytes)

    def get_many(self, ranges: Sequence[ByteRange]) -> list[bytes]:
        """Return the bytes of each range, near ones by one request; see ObjectStore.get_many."""
        self._check_open()
        for asked in ranges:
            check_range(*asked)
        fetches = self.plan(ranges)
        groups = _groups(fetches, self._reader.group if isinstance(self._reader, ReadsGroups) else 1)
        if len(groups) <= 1:
            parts = [self._read_group(group) for group in groups]
        else:
            parts = self._read_groups(groups)
        return split_fetches(ranges, fetches, [body for part in parts for body in part])

    def _read_groups(self, groups: Sequence[Sequence[ByteRange]]) -> list[list[bytes]]:
        """Return the bodies of each group, read side by side: every thread takes the next when it is done."""
        parts: list[list[bytes]] = [[] for _ in groups]
        # Taking the next of it is atomic.
        left = iter(range(len(groups)))

        def work() -> None:
            for number in left:
                parts[number] = self._read_group(groups[number])

        n_threads = min(len(groups), self._settings.io_concurrency)
        # In copies of the caller's context, which counts the requests that are repeated.
        futures = [self._threads().submit(copy_context().run, work) for _ in range(n_threads)]
        try:
            for future in futures:
                future.result()
        except BaseException:
            for _ in left:
                pass
            for future in futures:
                future.cancel()
            raise
        return parts

    def _read_group(self, group: Sequence[ByteRange]) -> list[bytes]:
        if isinstance(self._reader, ReadsGroups) and group[0].length is not None:
            return self._reader.read_group(group)
        return [self._reader.read(*asked) for asked in group]

    def put(self, key: str, data: bytes) -> None:
        """Write the object whole; see ObjectStore.put."""
        self._check_open()
        check_body(check_key(key), data)
        with translated(self._where, f"write {key!r}"):
            if len(data) < MULTIPART_BYTES:
                self._client.put_object(Bucket=self._bucket, Key=self._root + key, Body=data)
            else:
                from boto3.s3.transfer import TransferConfig

                config = TransferConfig(
                    multipart_threshold=MULTIPART_BYTES,
                    multipart_chunksize=PART_BYTES,
                    max_concurrency=min(10, self._settings.io_concurrency),
                )
                self._client.upload_fileobj(io.BytesIO(data), self._bucket, self._root + key, Config=config)

    @contextmanager
    def upload(self, key: str) -> Iterator[Sink]:
        """Yield what takes the object's bytes, sent in parts as they come; see UploadsPieces.upload."""
        self._check_open()
        name, where = self._root + check_key(key), f"{self._where}: {key}"
        upload = MultipartUpload(self._client, self._bucket, name, where, PART_BYTES)
        try:
            yield upload.write
            upload.finish()
        except BaseException:
            upload.abort()
            raise

    def put_if_absent(self, key: str, data: bytes) -> None:
        """Create the object or raise ObjectExists; see ObjectStore.put_if_absent."""
        self._check_open()
        check_body(check_key(key), data)
        if len(data) > MAX_CREATE_BYTES:
            raise InvalidInput(
                f"the body of {key!r} has {len(data)} bytes; put_if_absent takes up to "
                f"{MAX_CREATE_BYTES}: use put"
            )
        for attempt in range(_UNSETTLED_ATTEMPTS):
            try:
                self._client.put_object(Bucket=self._bucket, Key=self._root + key, Body=data, IfNoneMatch="*")
                return
            except S3_ERRORS as error:
                refused = status_of(error) in (409, 412)
                if not refused and not is_transient(error):
                    raise self._create_error(error, key) from error
                failure = error
            # An answer was lost, or botocore's own retry met what its first attempt had written.
            if self._settled(key, data, failure):
                return
            if not refused:
                # botocore has tried as often as it may; the object may still appear.
                break
            self._settings.sleep(self._settings.backoff_s(attempt))
        raise StoreUnavailable(
            f"{self._where}: it is not known whether {key!r} was created ({failure}); "
            "create it again with the same bytes, which succeeds if it was"
        ) from failure

    def _settled(self, key: str, data: bytes, failure: Exception) -> bool:
        """Whether the object holds `data`; False where there is none.

        Raises:
            ObjectExists: it holds something else.
            StoreUnavailable: it cannot be read either.
        """
        try:
            same = self._size(key) == len(data) and self._reader.read(key, 0, None) == data
        except (ObjectNotFound, CorruptData):
            # Deleted or replaced since its size was asked.
            return False
        except StoreUnavailable as error:
            raise StoreUnavailable(
                f"{self._where}: it is not known whether {key!r} was created ({failure}); "
                "create it again with the same bytes, which succeeds if it was"
            ) from error
        if not same:
            raise ObjectExists(f"{self._where}: object {key!r} exists already") from failure
        return True

    def _create_error(self, error: Exception, key: str) -> Exception:
        if status_of(error) == 501 or code_of(error) == "NotImplemented":
            return StorageError(
                f"{self._where}: the server has no create-only put (If-None-Match: *), which a commit needs "
                f"({error}); use a server that has it"
            )
        return store_error(error, self._where, f"create {key!r}")

    def head(self, key: str) -> ObjectInfo | None:
        """Return the object's size, or None."""
        self._check_open()
        check_key(key)
        try:
            return ObjectInfo(key, self._size(key))
        except ObjectNotFound:
            return None

    def _size(self, key: str) -> int:
        try:
            answer = self._client.head_object(Bucket=self._bucket, Key=self._root + key)
        except S3_ERRORS as error:
            if status_of(error) == 404:
                raise self._missing(key) from error
            raise store_error(error, self._where, f"look at {key!r}") from error
        return answer["ContentLength"]

    def list(self, prefix: str = "") -> list[ObjectInfo]:
        """Return the objects whose key begins with `prefix`, sorted; see ObjectStore.list."""
        self._check_open()
        check_prefix(prefix)
        found = list(self._listed(prefix, 1000))
        self._bucket_seen = True
        # Servers differ in the order of "a-1" and "a/b"; Python's order of str is that of UTF-8's bytes.
        return sorted(found, key=lambda info: info.key)

    def first(self, prefix: str = "") -> ObjectInfo | None:
        """Return one object whose key begins with `prefix`; see Peeking.first."""
        self._check_open()
        check_prefix(prefix)
        return next(self._listed(prefix, 2), None)

    def _listed(self, prefix: str, page_keys: int) -> Iterator[ObjectInfo]:
        with translated(self._where, f"list {prefix!r}"):
            names = self._names(self._root + prefix, page_keys)
            for name, size_bytes in names:
                key = name[len(self._root) :]
                # Consoles make "folders": empty objects whose name ends in a slash.
                if key and not key.endswith("/"):
                    yield ObjectInfo(key, size_bytes)

    def _names(self, prefix: str, page_keys: int) -> Iterator[tuple[str, int]]:
        """Yield the whole name and the size of each object, page by page."""
        token: str | None = None
        while True:
            page = self._page(prefix, page_keys, token)
            yield from page.items
            token = page.next_token
            if token is None:
                return

    def _page(self, prefix: str, page_keys: int, token: str | None) -> Page:
        if isinstance(self._reader, ListsPages):
            params = {"encoding-type": "url", "max-keys": str(page_keys), "prefix": prefix}
            page = self._reader.page(params if token is None else params | {"continuation-token": token})
            if page is not None:
                return page
        more: Any = {} if token is None else {"ContinuationToken": token}
        answer = self._client.list_objects_v2(Bucket=self._bucket, Prefix=prefix, MaxKeys=page_keys, **more)
        items = [(item["Key"], item["Size"]) for item in answer.get("Contents", [])]
        return Page(items, answer.get("NextContinuationToken") if answer["IsTruncated"] else None)

    def delete(self, keys: Sequence[str]) -> None:
        """Delete the objects, a thousand by one request; see ObjectStore.delete."""
        self._check_open()
        for key in keys:
            check_key(key)
        unique = list(dict.fromkeys(keys))
        for first in range(0, len(unique), DELETE_KEYS):
            self._delete_some(unique[first : first + DELETE_KEYS])

    def _delete_some(self, keys: Sequence[str]) -> None:
        left = list(keys)
        for attempt in range(self._settings.n_retries + 1):
            names: list[ObjectIdentifierTypeDef] = [{"Key": self._root + key} for key in left]
            what = f"delete {left[0]!r}" + (f" and {len(left) - 1} more" if len(left) > 1 else "")
            with translated(self._where, what):
                answer = self._client.delete_objects(
                    Bucket=self._bucket, Delete={"Objects": names, "Quiet": True}
                )
            failed = {e.get("Key", ""): e.get("Code", "") for e in answer.get("Errors", [])}
            failed = {key: code for key, code in failed.items() if code != "NoSuchKey"}
            if not failed:
                return
            name, code = next(iter(failed.items()))
            key = name[len(self._root) :]
            # The server answers for each key; make of one the error that it would be alone.
            error = _one_error(code, key)
            if not is_transient(error):
                raise store_error(error, self._where, f"delete {key!r}")
            left = [name[len(self._root) :] for name in failed]
            self._settings.sleep(self._settings.backoff_s(attempt))
        raise store_error(error, self._where, f"delete {key!r}")

    def close(self) -> None:
        """Release threads and connections; later calls raise Closed."""
        with self._lock:
            self._closed = True
            pool, self._pool = self._pool, None
        if pool is not None:
            pool.shutdown(wait=True, cancel_futures=True)
        self._reader.close()
        self._access.close()

    def _missing(self, key: str) -> StorageError:
        """Return the error for a 404, which a HEAD does not explain: no object, or no bucket."""
        if not self._bucket_seen:
            try:
                self._client.head_bucket(Bucket=self._bucket)
            except S3_ERRORS as error:
                if status_of(error) == 404:
                    return BucketNotFound(
                        f"{self._where}: there is no such bucket; create it, "
                        "or check its name and the endpoint"
                    )
                # Whoever may read objects need not be allowed to look at the bucket.
                if status_of(error) not in (400, 401, 403, 405):
                    failure = store_error(error, self._where, "look at the bucket")
                    if isinstance(failure, StorageError):
                        return failure
            self._bucket_seen = True
        return ObjectNotFound(f"{self._where}: there is no object {key!r}")

    def _threads(self) -> ThreadPoolExecutor:
        with self._lock:
            if self._closed:
                raise Closed(f"{self._where} was closed; connect again")
            if self._pool is None:
                self._pool = ThreadPoolExecutor(self._settings.io_concurrency, thread_name_prefix="vstore-s3")
            return self._pool

    def _check_open(self) -> None:
        if self._closed:
            raise Closed(f"{self._where} was closed; connect again")


def _groups(fetches: Sequence[Fetch], most: int) -> list[list[ByteRange]]:
    """Return the fetches' ranges, in order, in runs of at most `most` of one object with a known length."""
    groups: list[list[ByteRange]] = []
    for fetch in fetches:
        asked, last = fetch.range, groups[-1] if groups else []
        alike = bool(last) and last[0].key == asked.key and None not in (asked.length, last[0].length)
        if alike and len(last) < most:
            last.append(asked)
        else:
            groups.append([asked])
    return groups


def _one_error(code: str, key: str) -> ClientError:
    status = 503 if code in ("InternalError", "SlowDown", "ServiceUnavailable") else 400
    answer: Any = {
        "Error": {"Code": code, "Message": key},
        "ResponseMetadata": {"HTTPStatusCode": status},
    }
    return ClientError(answer, "DeleteObjects")


def _check_place(bucket: str, prefix: str) -> None:
    require(
        re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{2,254}", bucket) is not None or bucket.startswith("arn:"),
        f"the bucket is {bucket!r}; a bucket's name is 3 or more letters, digits, dots and dashes: s3://bucket/prefix",
    )
    parts = prefix.strip("/").split("/")
    require(
        prefix.strip("/") == "" or all(p not in ("", ".", "..") and p.isprintable() for p in parts),
        f"the prefix is {prefix!r}; it must have no empty part, no . or .. and no control characters",
    )
    require(
        len(prefix.encode()) <= 200,
        f"the prefix {prefix[:40]!r}... has {len(prefix.encode())} bytes; the limit is 200",
    )
