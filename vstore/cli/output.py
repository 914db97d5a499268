"""What every command prints with: lines, numbers with units, tables, one JSON document."""

from __future__ import annotations

import datetime
import json
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from time import perf_counter
from typing import Any, TextIO

import numpy as np

from vstore.types import Hit, Hits, Receipt

MAX_CELL = 46


def print_json(value: Any) -> None:
    """Print one JSON document on standard output."""
    print(json.dumps(value, default=plain, indent=2, allow_nan=False))


def plain(value: Any) -> Any:
    """Return a value that JSON has no form for as one that it has."""
    if isinstance(value, datetime.datetime | datetime.date):
        return value.isoformat()
    if isinstance(value, np.generic | np.ndarray):
        return value.tolist()
    if isinstance(value, bytes):
        return f"{len(value)} bytes"
    return str(value)


class Talker:
    """Says what a long command is doing: on standard output, or on standard error beside JSON."""

    def __init__(self, json_mode: bool) -> None:
        self._stream: TextIO = sys.stderr if json_mode else sys.stdout

    def say(self, line: str = "") -> None:
        """Print one line at once, so that a pipe sees it when it happens."""
        print(line, file=self._stream, flush=True)

    @contextmanager
    def step(self, title: str) -> Iterator[list[str]]:
        """Print a title, and afterwards what the block appended, with the seconds that it took."""
        started = perf_counter()
        self.say(f"-- {title}")
        results: list[str] = []
        yield results
        self.say(f"   {', '.join(results)}{' ' if results else ''}[{perf_counter() - started:.1f} s]")


def count(n: int, thing: str) -> str:
    """Return "1 hop" or "2 hops"."""
    return f"{n:,} {thing}{'' if n == 1 else 's'}"


def size(n_bytes: float) -> str:
    """Return bytes as people read them: 1536 -> "1.5 KiB"."""
    for unit in ("B", "KiB", "MiB"):
        if n_bytes < 1024:
            return f"{n_bytes:.0f} {unit}" if unit == "B" else f"{n_bytes:.1f} {unit}"
        n_bytes /= 1024
    return f"{n_bytes:.1f} GiB"


def table(header: Sequence[str], rows: Sequence[Sequence[Any]], indent: str = "") -> str:
    """Return rows under a header, columns aligned; numbers to the right, the rest to the left."""
    text = [[cell(value) for value in row] for row in rows]
    right = [all(isinstance(row[c], int | float) for row in rows) and bool(rows) for c in range(len(header))]
    widths = [max(len(line[c]) for line in [list(header), *text]) for c in range(len(header))]
    lines = [
        "  ".join(
            value.rjust(width) if to_right else value.ljust(width)
            for value, width, to_right in zip(line, widths, right, strict=True)
        )
        for line in [list(header), *text]
    ]
    return "\n".join(f"{indent}{line.rstrip()}" for line in lines)


def cell(value: Any) -> str:
    """Return a value as a table shows it."""
    if value is None:
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.4f}"
    if isinstance(value, list | tuple):
        value = " ".join(map(str, value))
    line = " ".join(str(value).split())
    return line if len(line) <= MAX_CELL else line[: MAX_CELL - 3] + "..."


def hit_dict(hit: Hit) -> dict[str, Any]:
    """Return a hit as JSON shows it; an image is told by its size only."""
    return {
        "id": hit.id,
        # A re-ranker answers NaN for a document that it could not score; JSON has no NaN.
        "score": hit.score if hit.score == hit.score else None,
        "distance": hit.distance,
        "first_score": hit.first_score,
        "first_rank": hit.first_rank,
        "attributes": hit.attributes,
        "document": hit.document,
    }


def hits_dict(hits: Hits) -> dict[str, Any]:
    """Return an answer as JSON shows it."""
    return {"hits": [hit_dict(hit) for hit in hits], "receipt": hits.receipt.as_dict()}


def receipt_lines(receipt: Receipt) -> list[str]:
    """Return a receipt as two lines for people."""
    near = "" if receipt.correlation is None else f", correlation {receipt.correlation:.2f}"
    work = (
        f"{receipt.n_matching:,} of {receipt.n_rows:,} rows match ({receipt.selectivity:.2%}{near}); "
        f"ef {receipt.ef}, {count(receipt.n_distances, 'distance')}, {count(receipt.n_hops, 'hop')}, "
        f"{receipt.n_rescored:,} re-scored"
    )
    spent = ", ".join(
        f"{stage} {spent_ms:.1f}" for stage, spent_ms in receipt.timings_ms.items() if spent_ms >= 0.05
    )
    reads = (
        f"{count(receipt.n_round_trips, 'round trip')}, {count(receipt.n_requests, 'request')}, "
        f"{size(receipt.bytes_fetched)}; blocks: "
        f"{receipt.n_cache_hits} cached, {receipt.n_cache_misses} not; "
        f"${receipt.estimated_cost_usd:.7f}; ms: {spent or 'under 0.1'}"
    )
    return [work, reads]
