"""The sections of a shard file, and how each is decoded for use.

docs/FORMAT.md is the authority on the bytes. `TABLED` sections are read by kernels through address
tables; the others are fetched by Python, whole or a block at a time.
"""

from __future__ import annotations

from typing import Final

HEAD: Final = "head"
LISTS: Final = "lists"
CODES: Final = "codes"
VECTORS: Final = "vectors"
PAYLOAD: Final = "payload"
KEYS: Final = "keys"
KEY_INDEX: Final = "key_index"
UPPER: Final = "upper"
SKETCHES: Final = "sketches"
"""1-bit codes relative to the centroids, in small blocks. Absent in shards of few codes."""

TABLED: Final = frozenset({LISTS, CODES})

WHOLE: Final = -1
"""The block number that stands for a whole section, read in one piece."""

# Sections small enough to be of use with every query travel with the head, in the same read.
META: Final = "meta"
CENTROIDS: Final = "centroids"
CLUSTERS: Final = "clusters"
CODE_PARAMS: Final = "code_params"
CALIBRATION: Final = "calibration"
"""Absent in shards that were not calibrated."""
SKETCH_PARAMS: Final = "sketch_params"
"""Absent in shards without sketches."""


def column_section(field: str) -> str:
    """Return the name of the section that holds a field's column."""
    return f"column:{field}"


def zones_section(field: str) -> str:
    """Return the name of the section that summarizes a field's column."""
    return f"zones:{field}"


def bloom_section(field: str) -> str:
    """Return the name of the section with the Bloom filters of a field's column."""
    return f"bloom:{field}"


def field_sections(field: str) -> tuple[str, ...]:
    """Return the names of all sections that a shard may have of a field."""
    return column_section(field), zones_section(field), bloom_section(field)


def vector_block_rows(dim: int) -> int:
    """Return the rows of a block of exact vectors: a power of two, about 32 KiB, at least 8.

    Exact vectors are read a few rows at a time, to decide between candidates, so their blocks are
    small; lists and codes are read by neighbourhood, so theirs are large.
    """
    rows = 8
    while rows < 1024 and rows * 2 * dim * 4 <= 32 << 10:
        rows *= 2
    return rows


PAYLOAD_BLOCK_BYTES: Final = 32 << 10
"""About what a payload block holds decoded: a hit reads one, so documents of 1 MB get a block each."""
MAX_PAYLOAD_BLOCK_ROWS: Final = 64
KEY_BLOCK_ROWS: Final = 65_536
COLUMN_BLOCK_ROWS: Final = 4096
"""A filter that clusters decide reads a block or two of a column: 32 KiB of numbers before compression."""
WHOLE_COLUMN_BYTES: Final = 1 << 20
"""A column of at most so many bytes is read whole, with the head: sparing some is not worth a round trip."""
BLOOM_SHARE: Final = 0.25
"""Bloom filters are kept where they take at most this share of their column's bytes."""
SKETCH_BLOCK_ROWS: Final = 128
"""Rows of a block of sketches: few, so that passing rows scattered over a shard cost few bytes more."""
SKETCHED_CODE_BYTES: Final = 32 << 20
"""Shards with more bytes of codes have sketches: of fewer, a cold search reads enough in fewer requests."""
