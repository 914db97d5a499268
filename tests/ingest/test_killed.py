"""A real process on a real folder, killed while it writes."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from ingest_fakes import Model, Place, contents, model_of, rows_of, shard_opener

from vstore.catalog import Catalog
from vstore.ingest.reader import load_view
from vstore.settings import Settings
from vstore.storage.local import LocalStore

HERE = Path(__file__).parent


def after(model: Model, op: str, stamp: int) -> Model:
    if op == "delete":
        return {key: row for key, row in model.items() if key != stamp}
    return {**model, **model_of(rows_of([stamp, stamp + 1, 1_000_000], stamp))}


@pytest.mark.parametrize("n_acks", [1, 37, 90])
def test_what_was_acknowledged_survives_a_kill(tmp_path, n_acks):
    child = subprocess.Popen(
        [sys.executable, str(HERE / "ingest_child.py"), str(tmp_path)], stdout=subprocess.PIPE, text=True
    )
    try:
        lines = [child.stdout.readline().split() for _ in range(n_acks)]
    finally:
        child.kill()
        rest, _ = child.communicate()
    lines += [line.split() for line in rest.splitlines() if line.split()]
    model: Model = {}
    for op, stamp in lines:
        model = after(model, op, int(stamp))
    op, stamp = lines[-1]
    # The one write that was under way: the child writes a delete after every third upsert.
    number = int(stamp)
    following = ("delete", number) if op == "upsert" and number % 3 == 0 else ("upsert", number + 1)
    store = LocalStore(str(tmp_path))
    found = contents(load_view(Catalog(store), "c", Settings(), open_shard=shard_opener(store)))
    assert found in (model, after(model, *following))


def test_a_folder_written_by_one_writer_is_taken_over_by_the_next(tmp_path):
    place = Place(store=LocalStore(str(tmp_path)))
    place.writer().upsert(rows_of([1]))
    place.writer().upsert(rows_of([2]))
    assert place.contents() == model_of(rows_of([1, 2]))
