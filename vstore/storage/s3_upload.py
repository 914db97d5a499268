"""A multipart upload: parts go up while the next are made, and none stays behind when it fails."""

from __future__ import annotations

import logging
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TYPE_CHECKING

from vstore.storage.s3_errors import S3_ERRORS, translated

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client
    from mypy_boto3_s3.type_defs import CompletedPartTypeDef

log = logging.getLogger(__name__)

PARTS_IN_FLIGHT = 4
"""An upload holds at most this many parts in memory, and the one that is being filled."""


class MultipartUpload:
    """One object on its way up. Not thread-safe.

    Args:
        client: boto3's.
        bucket: where to.
        name: the object's whole name.
        where: names store and object in messages.
        part_bytes: of each part but the last; S3 wants 5 MiB or more.
    """

    def __init__(self, client: S3Client, bucket: str, name: str, where: str, part_bytes: int) -> None:
        self._client, self._bucket, self._name, self._where = client, bucket, name, where
        self._part_bytes = part_bytes
        self._held = bytearray()
        self._id: str | None = None
        self._parts: list[Future[CompletedPartTypeDef]] = []
        self._pool = ThreadPoolExecutor(PARTS_IN_FLIGHT, thread_name_prefix="vstore-upload")

    def write(self, data: bytes) -> None:
        """Take the next bytes; waits where PARTS_IN_FLIGHT parts are on their way."""
        self._held += data
        while len(self._held) >= self._part_bytes:
            self._send(bytes(self._held[: self._part_bytes]))
            del self._held[: self._part_bytes]

    def finish(self) -> None:
        """Send what is left and make the object appear; a body of one part goes up by a plain put."""
        try:
            with translated(self._where, "write"):
                if self._id is None:
                    self._client.put_object(Bucket=self._bucket, Key=self._name, Body=bytes(self._held))
                    return
                if self._held:
                    self._send(bytes(self._held))
                parts = [part.result() for part in self._parts]
                self._complete(parts)
        finally:
            self._pool.shutdown()

    def abort(self) -> None:
        """Give up what was sent; failing to is logged, for a lifecycle rule to clean up."""
        for part in self._parts:
            part.cancel()
        # A part that is still on its way would outlive the abort.
        self._pool.shutdown(wait=True)
        self._held.clear()
        if self._id is None:
            return
        try:
            self._client.abort_multipart_upload(Bucket=self._bucket, Key=self._name, UploadId=self._id)
        except S3_ERRORS as error:
            log.warning(
                "%s: parts of an upload that was given up could not be deleted: %s", self._where, error
            )

    def _send(self, body: bytes) -> None:
        with translated(self._where, "write"):
            if self._id is None:
                made = self._client.create_multipart_upload(Bucket=self._bucket, Key=self._name)
                self._id = made["UploadId"]
            if len(self._parts) >= PARTS_IN_FLIGHT:
                self._parts[-PARTS_IN_FLIGHT].result()
            self._parts.append(self._pool.submit(self._put_part, len(self._parts) + 1, body))

    def _put_part(self, number: int, body: bytes) -> CompletedPartTypeDef:
        assert self._id is not None
        answer = self._client.upload_part(
            Bucket=self._bucket, Key=self._name, UploadId=self._id, PartNumber=number, Body=body
        )
        # botocore adds a checksum where the server knows it, and it must be said again at the end.
        part: CompletedPartTypeDef = {"PartNumber": number, "ETag": answer["ETag"]}
        if "ChecksumCRC32" in answer:
            part["ChecksumCRC32"] = answer["ChecksumCRC32"]
        return part

    def _complete(self, parts: list[CompletedPartTypeDef]) -> None:
        assert self._id is not None
        self._client.complete_multipart_upload(
            Bucket=self._bucket, Key=self._name, UploadId=self._id, MultipartUpload={"Parts": parts}
        )
