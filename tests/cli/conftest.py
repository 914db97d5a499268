"""A shell, and a small collection to use it on."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from cli_run import Shell

import vstore


@pytest.fixture
def shell(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Shell:
    # Usage errors are drawn as wide as the terminal; tests look for words that must not be broken.
    monkeypatch.setenv("COLUMNS", "250")
    return Shell(capsys)


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """A folder with the collection `photos`: 60 rows of 8 components, half of them flushed."""
    vectors = np.random.default_rng(3).standard_normal((60, 8)).astype(np.float32)
    with vstore.connect(tmp_path / "store") as db:
        collection = db.create_collection("photos", dim=8, fields={"year": "int", "tags": "list[str]"})
        for start in (0, 30):
            rows = range(start, start + 30)
            collection.upsert(
                [f"p{i}" for i in rows],
                vectors[start : start + 30],
                {
                    "year": [2000 + i for i in rows],
                    "tags": [["bird"] if i % 2 else ["sea", "boat"] for i in rows],
                },
                [f"picture {i} of a {'bird' if i % 2 else 'boat'}" for i in rows],
            )
            if start == 0:
                collection.flush()
    return tmp_path / "store"
