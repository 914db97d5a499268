"""`vstore verify` and `vstore export`: looking after a store."""

from __future__ import annotations

from pathlib import Path
from time import perf_counter
from typing import Annotated

import typer

from vstore.cli.connection import AddressingStyle, AsJson, CollectionName, EndpointUrl, Place, Region, Uri
from vstore.cli.output import count, print_json, size
from vstore.progress import progress_of
from vstore.upkeep.report import VerifyReport


def register(app: typer.Typer) -> None:
    """Add the commands of this module."""
    app.command(epilog="Example: vstore verify ./data photos")(verify)
    app.command(epilog="Example: vstore export ./data photos backup-of-photos")(export)


def verify(
    uri: Uri,
    collection: Annotated[
        str | None, typer.Argument(metavar="[COLLECTION]", help="One; all without it.")
    ] = None,
    endpoint_url: EndpointUrl = None,
    region: Region = None,
    addressing_style: AddressingStyle = None,
    as_json: AsJson = False,
) -> None:
    """Read everything; check every checksum, reference, count, id and code. Exit code 1 if any is wrong."""
    place = Place(uri, endpoint_url, region, addressing_style)
    with place.open(read_only=True) as db, progress_of(True, "Verifying", unit="bytes") as progress:
        report = db.verify(collection, progress=progress)
    if as_json:
        print_json(report.as_dict())
    else:
        print(as_text(report))
    if not report.ok:
        raise typer.Exit(1)


def export(
    uri: Uri,
    collection: CollectionName,
    folder: Annotated[Path, typer.Argument(metavar="FOLDER", help="New, or empty.", show_default=False)],
    endpoint_url: EndpointUrl = None,
    region: Region = None,
    addressing_style: AddressingStyle = None,
    as_json: AsJson = False,
) -> None:
    """Write a collection to a folder of plain files, which `vstore import` reads back whole."""
    started = perf_counter()
    place = Place(uri, endpoint_url, region, addressing_style)
    with place.open(read_only=True) as db, progress_of(True, f"Exporting {collection}") as progress:
        n_rows = db.export(collection, folder, progress=progress)
    n_bytes = sum(file.stat().st_size for file in folder.iterdir())
    seconds = perf_counter() - started
    if as_json:
        print_json(
            {
                "collection": collection,
                "folder": str(folder),
                "n_rows": n_rows,
                "bytes_written": n_bytes,
                "seconds": round(seconds, 3),
            }
        )
    else:
        print(f"{collection}: {count(n_rows, 'row')}, {size(n_bytes)}, into {folder} [{seconds:.1f} s]")


def import_folder(place: Place, name: str, folder: Path, as_json: bool) -> None:
    """Make a collection of an export: what `vstore import` does with a folder."""
    started = perf_counter()
    with place.open(must_exist=False) as db, progress_of(True, f"Importing {folder.name}") as progress:
        n_rows = len(db.import_collection(folder, name, progress=progress))
    seconds = perf_counter() - started
    if as_json:
        print_json(
            {
                "file": str(folder),
                "collection": name,
                "created": True,
                "n_imported": n_rows,
                "n_rows": n_rows,
                "seconds": round(seconds, 3),
            }
        )
    else:
        print(f"{folder}: {count(n_rows, 'row')} into {name} [{seconds:.1f} s]")


def as_text(report: VerifyReport) -> str:
    """Return a report for people: each problem in a line, and a line of what was read."""
    lines = [f"{problem.object}: {problem.reason}" for problem in report.problems]
    read = (
        f"{count(report.n_manifests, 'manifest')}, {count(report.n_records, 'log record')}, "
        f"{count(report.n_dead_bitmaps, 'bitmap')} of dead rows, {count(report.n_shards, 'shard')} of "
        f"{count(report.n_rows, 'row')}, {size(report.bytes_read)}"
    )
    if report.n_unnamed:
        read += f"; {count(report.n_unnamed, 'object')} that nothing names"
    names = ", ".join(report.collections) or "no collection"
    verdict = "sound" if report.ok else count(len(report.problems), "problem")
    return "\n".join([*lines, f"{names}: {verdict} ({read})"])
