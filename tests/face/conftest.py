"""The same tests on every kind of store."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import vstore

Connect = Callable[..., vstore.Database]


@pytest.fixture(params=["memory", "folder", pytest.param("s3", marks=pytest.mark.s3)])
def connect(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Connect]:
    """Connects to one place of each kind; calling it again is another connection to the same place."""
    options: dict[str, Any] = {}
    if request.param == "s3":
        uri = request.getfixturevalue("s3_url")
        options = request.getfixturevalue("s3_options")
    elif request.param == "folder":
        uri = str(tmp_path / "store")
    else:
        uri = f"memory://{request.node.nodeid}"
    opened: list[vstore.Database] = []

    def open_database(**settings: Any) -> vstore.Database:
        read_only = settings.pop("read_only", False)
        chosen = vstore.Settings(n_threads=2, **settings)
        opened.append(vstore.connect(uri, settings=chosen, read_only=read_only, **options))
        return opened[-1]

    yield open_database
    for database in opened:
        database.close()


@pytest.fixture
def db(connect: Connect) -> vstore.Database:
    """A connection to an empty place."""
    return connect()
