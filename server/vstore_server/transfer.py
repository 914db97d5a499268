"""A collection from a server into a folder and back: what `Database.export` writes, over the network."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping

import numpy as np

from vstore.progress import Report
from vstore.upkeep.export import ExportBatch, write_export
from vstore.upkeep.folder import Export
from vstore_server.calls import Description, read_answer, read_scan
from vstore_server.messages import read_value


def export_scan(
    name: str,
    described: Description,
    fusions: Mapping[str, bytes],
    answers: Iterator[bytes],
    path: str | os.PathLike[str],
    progress: Report | None,
) -> int:
    """Write what a `Scan` of a whole collection answers to a new folder; return the number of rows.

    Raises: as `vstore.Database.export`, and what the connection raises.
    """
    n_rows = int(read_value(read_answer(next(answers)), "rows"))

    def batches() -> Iterator[ExportBatch]:
        for answer in answers:
            records = read_scan(answer)
            rows = [(record.id, record.attributes, record.document) for record in records]
            yield np.stack([record.vector for record in records]), rows

    return write_export(
        Export(name, described.schema, described.index, n_rows, {}, fusions), batches(), path, progress
    )
