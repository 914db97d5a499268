"""The calibration of a shard as bytes: docs/FORMAT.md, section `calibration`."""

from __future__ import annotations

from typing import Any

import msgpack
import numpy as np

from vstore.errors import CorruptData
from vstore.format.frame import natural, unpack
from vstore.shard.calibration.curves import KS, LOSSES, OVERSAMPLING, WALKS, Calibration, Curve
from vstore.types import Float32s

_COUNTS = 4


def encode_calibration(calibration: Calibration) -> bytes:
    """Return the bytes of the CALIBRATION section."""
    packed: bytes = msgpack.packb(
        {
            "n_queries": calibration.n_queries,
            "ks": list(KS),
            "oversampling": list(OVERSAMPLING),
            "row_bytes": calibration.row_bytes,
            "centroid_bytes": calibration.centroid_bytes,
            "novel_beyond": calibration.novel_beyond,
            "lost": calibration.lost.astype("<f4").tobytes(),
            "code_recall": [list(pair) for pair in calibration.code_recall],
            "curves": [
                {
                    "walk": curve.walk,
                    "share": curve.share,
                    "ef": curve.ef.astype("<i4").tobytes(),
                    "n_seeds": curve.n_seeds.astype("<i4").tobytes(),
                    "recall": curve.recall.astype("<f4").tobytes(),
                    "counts": curve.counts.astype("<f4").tobytes(),
                }
                for curve in calibration.curves
            ],
        }
    )
    return packed


def decode_calibration(data: bytes, where: str) -> Calibration | None:
    """Return the calibration that a head holds, or None where it was measured on another grid.

    Raises:
        CorruptData, ValueError, KeyError, TypeError: the bytes are no calibration.
    """
    stored = unpack(data, where)
    if stored["ks"] != list(KS) or stored["oversampling"] != list(OVERSAMPLING):
        # Only widths depend on it, so a reader that knows another grid goes on as without one.
        return None
    curves = tuple(_curve(part, where) for part in stored["curves"] if part["walk"] in WALKS)
    if not any(curve.walk == "hnsw" for curve in curves):
        raise CorruptData(f"{where}: the calibration has no unfiltered curve")
    return Calibration(
        n_queries=natural(stored["n_queries"]),
        curves=curves,
        lost=_shares(stored["lost"], len(LOSSES) * len(KS), len(OVERSAMPLING), where).reshape(
            len(LOSSES), len(KS), len(OVERSAMPLING)
        ),
        row_bytes=natural(stored["row_bytes"]),
        centroid_bytes=natural(stored["centroid_bytes"]),
        novel_beyond=float(stored["novel_beyond"]),
        code_recall=tuple((natural(bits), float(recall)) for bits, recall in stored["code_recall"]),
    )


def _curve(stored: dict[str, Any], where: str) -> Curve:
    ef = np.frombuffer(stored["ef"], "<i4").astype(np.int32)
    seeds = np.frombuffer(stored["n_seeds"], "<i4").astype(np.int32)
    counts = np.frombuffer(stored["counts"], "<f4").astype(np.float32)
    share = float(stored["share"])
    if len(ef) == 0 or ef[0] < 1 or (np.diff(ef) <= 0).any() or len(seeds) != len(ef) or seeds.min() < 1:
        raise CorruptData(f"{where}: a calibration curve has widths {ef.tolist()} and seeds {seeds.tolist()}")
    if not 0 < share <= 1 or len(counts) != len(ef) * _COUNTS or not (counts >= 0).all():
        raise CorruptData(f"{where}: a calibration curve has share {share} and {len(counts)} counts")
    recall = _shares(stored["recall"], len(ef), len(KS), where)
    return Curve(stored["walk"], share, ef, seeds, recall, counts.reshape(len(ef), _COUNTS))


def _shares(data: bytes, rows: int, columns: int, where: str) -> Float32s:
    values = np.frombuffer(data, "<f4").astype(np.float32)
    if len(values) != rows * columns or not ((values >= 0) & (values <= 1)).all():
        raise CorruptData(
            f"{where}: {len(values)} shares of a calibration; {rows} x {columns} from 0 to 1 belong"
        )
    return values.reshape(rows, columns)
