"""The container of a shard: sections of checksummed blocks, a head that lists them, a trailer.

    file magic | blocks of section 1 | blocks of section 2 | ... | head frame | trailer

A section's blocks lie together, each addressable by one range read. The head is one frame: the
directory of all blocks (offset, size, CRC32C) and the contents of the sections that every query needs.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import zstandard

from vstore.errors import CorruptData, UnsupportedVersion
from vstore.format.dead_rows import inflate
from vstore.format.frame import (
    VERSION,
    checksum,
    decode_frame,
    decoding,
    encode_frame,
    pack,
    text,
    unpack,
)
from vstore.format.manifest import Extent

FILE_MAGIC: Final = b"VSTSHRD\x01"
HEAD_MAGIC: Final = b"VSTHEAD\x01"
TRAILER_MAGIC: Final = b"VSTSEND\x01"
_TRAILER: Final = struct.Struct("<8sHHIQQQ")
TRAILER_BYTES: Final = _TRAILER.size + 4
ZSTD_LEVEL: Final = 3


@dataclass(frozen=True, slots=True)
class Directory:
    """Where a section's blocks are: `offsets` int64[n + 1] in the file, `sizes` int64[n] decoded,
    `checks` uint32[n] CRC32C of the stored bytes.
    """

    offsets: npt.NDArray[np.int64]
    sizes: npt.NDArray[np.int64]
    checks: npt.NDArray[np.uint32]
    compressed: bool

    @property
    def n_blocks(self) -> int:
        """Number of blocks."""
        return len(self.sizes)


class ShardFileWriter:
    """Lays sections out as one file.

    Args:
        sink: takes the file's bytes as they come; without one they are collected for `finish`.
    """

    def __init__(self, sink: Callable[[bytes], object] | None = None) -> None:
        self._parts: list[bytes] = []
        self._sink = sink or self._parts.append
        self.size_bytes = 0
        self._write(FILE_MAGIC)
        self._directories: dict[str, dict[str, Any]] = {}
        self._sections: dict[str, Extent] = {}
        self._in_head: dict[str, bytes] = {}

    def add_to_head(self, name: str, data: bytes) -> None:
        """Add a section that travels with the head."""
        self._in_head[name] = data

    def add(self, name: str, blocks: Iterable[bytes], *, compress: bool = True) -> int:
        """Add a section of blocks, in order; return the bytes that it takes.

        Args:
            name: the section; each name once.
            blocks: the decoded bytes of each block.
            compress: store each block as a zstd frame.
        """
        compressor = zstandard.ZstdCompressor(level=ZSTD_LEVEL)
        start = self.size_bytes
        offsets, sizes, checks = [start], [], []
        for block in blocks:
            stored = compressor.compress(block) if compress else bytes(block)
            sizes.append(len(block))
            checks.append(checksum(stored))
            self._write(stored)
            offsets.append(self.size_bytes)
        self._directories[name] = {
            "offsets": np.array(offsets, dtype="<i8").tobytes(),
            "sizes": np.array(sizes, dtype="<i8").tobytes(),
            "checks": np.array(checks, dtype="<u4").tobytes(),
            "compressed": compress,
        }
        self._sections[name] = Extent(start, self.size_bytes - start)
        return self.size_bytes - start

    def _write(self, data: bytes) -> None:
        self._sink(data)
        self.size_bytes += len(data)

    def finish(self) -> tuple[bytes, Extent, dict[str, Extent]]:
        """Return the file (b"" where a sink took it), and the extents of its head and of each section."""
        head = encode_frame(HEAD_MAGIC, pack({"sections": self._directories, "inline": self._in_head}))
        extent = Extent(self.size_bytes, len(head))
        size = self.size_bytes + len(head) + TRAILER_BYTES
        trailer = _TRAILER.pack(TRAILER_MAGIC, VERSION, 0, 0, extent.start, extent.length, size)
        self._write(head)
        self._write(trailer + struct.pack("<I", checksum(trailer)))
        return b"".join(self._parts), extent, self._sections


class ShardFile:
    """The directory of a shard file, and how its blocks decode. Holds no block.

    Args:
        directories: each section of blocks by name.
        inline: each section of the head by name.
        where: names the object in messages.
    """

    def __init__(self, directories: dict[str, Directory], inline: dict[str, bytes], where: str) -> None:
        self._directories = directories
        self._inline = inline
        self._where = where

    @classmethod
    def from_head(cls, head: bytes, where: str, start: int | None = None) -> ShardFile:
        """Read the directory from the bytes of the head.

        Args:
            head: the bytes.
            where: names the object in messages.
            start: where in the file the head begins, so every block ends before; not checked if None.

        Raises:
            CorruptData, UnsupportedVersion: they are no head that this version reads.
        """
        stored = unpack(decode_frame(head, HEAD_MAGIC, where), where)
        with decoding(where):
            directories = {
                text(name): _directory(part, f"{where}, section {name!r}", start)
                for name, part in stored["sections"].items()
            }
            inline = {text(name): memoryview(data).tobytes() for name, data in stored["inline"].items()}
        return cls(directories, inline, where)

    @classmethod
    def from_bytes(cls, data: bytes, where: str) -> ShardFile:
        """Read the directory of a whole file, by its trailer.

        Raises:
            CorruptData, UnsupportedVersion: it is no shard file that this version reads.
        """
        head = read_trailer(data[-TRAILER_BYTES:], len(data), where)
        if data[: len(FILE_MAGIC)] != FILE_MAGIC:
            raise CorruptData(f"{where}: magic {data[:8]!r} at offset 0; expected {FILE_MAGIC!r}")
        return cls.from_head(data[head.start : head.start + head.length], where, head.start)

    @property
    def sections(self) -> tuple[str, ...]:
        """The names of the sections of blocks."""
        return tuple(self._directories)

    def head_section(self, name: str) -> bytes:
        """Return a section that came with the head.

        Raises:
            CorruptData: the file has none of that name.
        """
        if name not in self._inline:
            raise CorruptData(f"{self._where}: the head has no section {name!r}")
        return self._inline[name]

    def has_head_section(self, name: str) -> bool:
        """Return whether a section came with the head."""
        return name in self._inline

    def n_blocks(self, name: str) -> int:
        """Return the number of blocks of a section."""
        return self._find(name).n_blocks

    def block_extent(self, name: str, block: int) -> Extent:
        """Return where in the file a block lies."""
        directory = self._find(name)
        if not 0 <= block < directory.n_blocks:
            raise CorruptData(
                f"{self._where}: section {name!r} has {directory.n_blocks} blocks; "
                f"block {block} was asked for"
            )
        start, end = int(directory.offsets[block]), int(directory.offsets[block + 1])
        return Extent(start, end - start)

    def decode_block(self, name: str, block: int, stored: bytes) -> bytes:
        """Return the decoded bytes of a block.

        Raises:
            CorruptData: the stored bytes fail their checksum or do not decode.
        """
        extent = self.block_extent(name, block)
        directory = self._find(name)
        where = f"{self._where}: block {block} of section {name!r} at offset {extent.start}"
        if len(stored) != extent.length:
            raise CorruptData(f"{where}: {len(stored)} bytes were read; it has {extent.length}")
        if checksum(stored) != int(directory.checks[block]):
            raise CorruptData(f"{where} fails its checksum: damaged")
        size = int(directory.sizes[block])
        if directory.compressed:
            return inflate(stored, size, where)
        if size != len(stored):
            raise CorruptData(f"{where}: {len(stored)} bytes stored raw; the directory says {size}")
        return stored

    def decode_section(self, name: str, stored: bytes) -> list[bytes]:
        """Return every block of a section that was read whole.

        Raises:
            CorruptData: as `decode_block`.
        """
        directory = self._find(name)
        base = int(directory.offsets[0])
        blocks = []
        for block in range(directory.n_blocks):
            start, end = int(directory.offsets[block]) - base, int(directory.offsets[block + 1]) - base
            blocks.append(self.decode_block(name, block, stored[start:end]))
        return blocks

    def _find(self, name: str) -> Directory:
        if name not in self._directories:
            raise CorruptData(f"{self._where}: the file has no section {name!r}")
        return self._directories[name]


def read_trailer(trailer: bytes, file_bytes: int, where: str) -> Extent:
    """Return where the head is, from a file's last TRAILER_BYTES bytes.

    Raises:
        CorruptData, UnsupportedVersion: they are no trailer of a file of `file_bytes`.
    """
    at = max(file_bytes - TRAILER_BYTES, 0)
    if len(trailer) != TRAILER_BYTES:
        raise CorruptData(
            f"{where}: {file_bytes} bytes; a shard file has at least {TRAILER_BYTES}: truncated"
        )
    magic, version, reserved, flags, start, length, size = _TRAILER.unpack_from(trailer)
    if magic != TRAILER_MAGIC:
        raise CorruptData(f"{where}: magic {magic!r} at offset {at}; expected {TRAILER_MAGIC!r}: truncated?")
    if struct.unpack_from("<I", trailer, _TRAILER.size)[0] != checksum(trailer[: _TRAILER.size]):
        raise CorruptData(f"{where}: the trailer at offset {at} fails its checksum: damaged")
    if version > VERSION or version == 0:
        raise UnsupportedVersion(
            f"{where}: format version {version}; this vstore reads up to {VERSION}: upgrade it"
        )
    if flags or reserved:
        raise UnsupportedVersion(
            f"{where}: unknown flags {flags:#x}/{reserved:#x} at offset {at + 10}: upgrade vstore"
        )
    if size != file_bytes or start + length + TRAILER_BYTES != size:
        raise CorruptData(f"{where}: the trailer describes a file of {size} bytes; this one has {file_bytes}")
    return Extent(start, length)


def _directory(stored: dict[str, Any], where: str, end: int | None) -> Directory:
    directory = Directory(
        np.frombuffer(stored["offsets"], dtype="<i8"),
        np.frombuffer(stored["sizes"], dtype="<i8"),
        np.frombuffer(stored["checks"], dtype="<u4"),
        stored["compressed"],
    )
    n = directory.n_blocks
    if len(directory.offsets) != n + 1 or len(directory.checks) != n:
        raise CorruptData(f"{where}: the directory's arrays disagree on the number of blocks")
    if not isinstance(directory.compressed, bool):
        raise CorruptData(f"{where}: compressed is {directory.compressed!r}; it is true or false")
    offsets = directory.offsets
    # Compared, not subtracted: differences of damaged offsets overflow.
    if (offsets[1:] < offsets[:-1]).any() or (directory.sizes < 0).any() or offsets[0] < len(FILE_MAGIC):
        raise CorruptData(f"{where}: the directory's offsets or sizes run backwards")
    if end is not None and offsets[-1] > end:
        raise CorruptData(f"{where}: blocks reach to offset {offsets[-1]}; the head begins at {end}")
    return directory
