"""The rows of a shard that were deleted or replaced since it was built, as one small object."""

from __future__ import annotations

from typing import Final

import numpy as np
import zstandard

from vstore.errors import CorruptData
from vstore.format.frame import decode_frame, decoding, encode_frame, pack, unpack
from vstore.types import Bitmap

MAGIC: Final = b"VSTDEAD\x01"


def encode_dead(dead: Bitmap, n_rows: int) -> bytes:
    """Return a frame of the bitmap of dead rows among `n_rows`."""
    bits = zstandard.ZstdCompressor(level=3).compress(dead.astype("<u8").tobytes())
    return encode_frame(MAGIC, pack({"n_rows": n_rows, "bits": bits}))


def decode_dead(data: bytes, where: str, n_rows: int) -> Bitmap:
    """Return the bitmap of dead rows of a shard of `n_rows`.

    Raises:
        CorruptData, UnsupportedVersion: no such bitmap, or one of another number of rows.
    """
    stored = unpack(decode_frame(data, MAGIC, where), where)
    size = -(-n_rows // 64) * 8
    with decoding(where):
        if stored["n_rows"] != n_rows:
            raise CorruptData(f"{where}: dead rows of {stored['n_rows']} rows; the shard has {n_rows}")
        raw = inflate(stored["bits"], size, where)
    words = np.frombuffer(raw, dtype="<u8").astype(np.uint64)
    tail = n_rows % 64
    if tail and int(words[-1]) >> tail:
        raise CorruptData(f"{where}: a row past the {n_rows} of the shard is marked dead")
    return words


def inflate(stored: bytes, size: int, where: str) -> bytes:
    """Return zstd data decompressed, which must be exactly `size` bytes: nothing larger is allocated.

    Raises:
        CorruptData: it is not.
    """
    # A zstd block takes at least 4 bytes and gives at most 128 KiB (RFC 8878, 3.1.1.2): bytes that announce
    # more than that are lying, and zstandard allocates what they announce.
    if size > len(stored) << 15:
        raise CorruptData(f"{where}: {len(stored)} bytes cannot hold the {size} that they announce")
    try:
        if zstandard.get_frame_parameters(stored).content_size != size:
            raise CorruptData(f"{where}: compressed data does not announce {size} bytes")
        raw: bytes = zstandard.ZstdDecompressor().decompress(
            stored, max_output_size=size, allow_extra_data=False
        )
    except zstandard.ZstdError as error:
        raise CorruptData(f"{where}: zstd does not decode: {error}") from error
    if len(raw) != size:
        raise CorruptData(f"{where}: {len(raw)} bytes decompressed; expected {size}")
    return raw
