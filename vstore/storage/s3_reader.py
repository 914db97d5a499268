"""How ranges are read from S3: one small protocol, and the reader that is boto3's get_object."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol, runtime_checkable

from vstore.errors import CorruptData, StorageError
from vstore.settings import Settings
from vstore.storage.base import ByteRange
from vstore.storage.keys import past_end
from vstore.storage.retries import count_retry
from vstore.storage.s3_client import S3Access
from vstore.storage.s3_errors import S3_ERRORS, is_transient, status_of, store_error


def ignores_ranges(where: str, key: str) -> StorageError:
    """Return the error for an answer that is not the range that was asked for."""
    return StorageError(f"{where}: the server ignores ranges (read {key!r}); use another server")


class ObjectReader(Protocol):
    """Reads one range of one object; many threads call it at once."""

    def read(self, key: str, start: int, length: int | None) -> bytes:
        """Return the bytes, as ObjectStore.get; `length` is not 0.

        Raises:
            ObjectNotFound, BucketNotFound, AccessDenied, StoreUnavailable, CorruptData (past the end).
        """
        ...

    def close(self) -> None:
        """Release connections."""
        ...


@runtime_checkable
class ReadsGroups(Protocol):
    """An ObjectReader that reads several ranges of one object by one call, each by a request of its own."""

    @property
    def group(self) -> int:
        """The most ranges of a call."""
        ...

    def read_group(self, ranges: Sequence[ByteRange]) -> list[bytes]:
        """Return the bytes of each range, all of one object and of a known length.

        Raises: as `ObjectReader.read`.
        """
        ...


class BotoReader:
    """Reads through boto3's get_object: about 1.2 ms of processor time a request.

    Args:
        access: whose client asks; the store closes it.
        bucket: the bucket's name.
        root: what stands before every key, "" or ending in "/".
        where: the store's name in messages.
        missing: returns the error for a 404 (no object, or no bucket).
        settings: n_retries says how often a body that broke off is asked for again (botocore stops at the
            headers), backoff_s and sleep how it waits between.
    """

    def __init__(
        self,
        access: S3Access,
        bucket: str,
        root: str,
        *,
        where: str,
        missing: Callable[[str], StorageError],
        settings: Settings,
    ) -> None:
        self._access = access
        self._bucket = bucket
        self._root = root
        self._where = where
        self._missing = missing
        self._settings = settings

    def read(self, key: str, start: int, length: int | None) -> bytes:
        """Return the bytes of one range; see ObjectReader.read."""
        attempt, client = 0, self._access.client
        while True:
            headers_came = False
            try:
                end = "" if length is None else str(start + length - 1)
                whole = start == 0 and length is None
                answer = (
                    client.get_object(Bucket=self._bucket, Key=self._root + key)
                    if whole
                    else client.get_object(
                        Bucket=self._bucket, Key=self._root + key, Range=f"bytes={start}-{end}"
                    )
                )
                headers_came = True
                with answer["Body"] as body:
                    data = body.read()
                break
            except S3_ERRORS as error:
                if headers_came and is_transient(error) and attempt < self._settings.n_retries:
                    count_retry()
                    self._settings.sleep(self._settings.backoff_s(attempt))
                    attempt += 1
                    continue
                raise self._failure(error, key, start, length) from error
        if not whole and answer["ResponseMetadata"]["HTTPStatusCode"] != 206:
            raise ignores_ranges(self._where, key)
        if not data or (length is not None and len(data) < length):
            raise CorruptData(past_end(self._where, key, start, length, start + len(data)))
        return data if length is None or len(data) == length else data[:length]

    def _failure(self, error: Exception, key: str, start: int, length: int | None) -> Exception:
        if status_of(error) == 416:
            return CorruptData(past_end(self._where, key, start, length, None))
        if status_of(error) == 404:
            return self._missing(key)
        return store_error(error, self._where, f"read {key!r}")

    def close(self) -> None:
        """Do nothing: the client is the store's."""
