"""The demo's corpus and embedding."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

from vstore.cli.demo_corpus import FIELDS, Docstring, collect, is_public, source_files
from vstore.cli.demo_embedding import Embedding, stem, words_of
from vstore.errors import CorruptData

SOURCE = '''
"""A module of the test.

It would end the interpreter if it were imported.
"""
raise SystemExit("imported")

class Shelf(dict):
    """Holds books."""

    def __init__(self, width: int, *books: Book) -> None:
        self.width = width

    async def fetch(self, name: str, timeout: float = 1.5) -> Book | None:
        """Fetch a book."""

    def _hidden(self): "Private."

if True:
    def tidy(shelf, /, *, by="name"):
        """Sort the books."""

def undocumented(): ...
'''


@pytest.fixture(scope="module")
def parsed(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Docstring]:
    path = tmp_path_factory.mktemp("source") / "shelf.py"
    path.write_text(SOURCE)
    broken = path.with_name("broken.py")
    broken.write_bytes(b"def (:\n\xff")
    files = [("lib.broken", broken), ("lib.gone", path.with_name("gone.py")), ("lib.shelf", path)]
    return {one.key: one for one in collect(files) if one.package == "lib"}


def test_sources_are_parsed_and_not_run(parsed: dict[str, Docstring]) -> None:
    assert list(parsed) == [
        "lib.shelf",
        "lib.shelf.Shelf",
        "lib.shelf.tidy",
        "lib.shelf.Shelf.fetch",
        "lib.shelf.Shelf._hidden",
    ]
    assert "lib.shelf" not in sys.modules


def test_attributes_of_a_definition(parsed: dict[str, Docstring]) -> None:
    shelf, fetch = parsed["lib.shelf.Shelf"], parsed["lib.shelf.Shelf.fetch"]
    assert (shelf.kind, shelf.names, shelf.signature) == (
        "class",
        ("width", "int", "books", "Book"),
        "(self, width: int, *books: Book)",
    )
    assert (fetch.kind, fetch.public, fetch.lines, fetch.module, fetch.package) == (
        "method", True, 2, "lib.shelf", "lib",
    )  # fmt: skip
    assert fetch.names == ("name", "str", "timeout", "float", "Book", "None")
    assert fetch.document.startswith(
        "lib.shelf.Shelf.fetch(self, name: str, timeout: float=1.5) -> Book | None\n\nFetch"
    )
    assert parsed["lib.shelf.tidy"].kind == "function"
    assert parsed["lib.shelf.tidy"].names == ("shelf", "by")
    assert parsed["lib.shelf"].kind == "module"
    assert not parsed["lib.shelf.Shelf._hidden"].public
    assert set(FIELDS) <= set(dir(shelf))


def test_what_is_public() -> None:
    assert is_public("a.B.c")
    assert is_public("a.B.__init__")
    assert not is_public("a._b.c")


def test_the_c_modules_are_there() -> None:
    found = {one.key: one for one in collect([])}
    assert found["builtins.str.split"].kind == "method"
    assert found["builtins.str.split"].names == ("sep", "maxsplit")
    assert found["builtins.sorted"].kind == "function"
    assert found["math"].kind == "module"


def test_the_corpus_covers_the_library_and_the_dependencies() -> None:
    files = source_files()
    packages = {name.partition(".")[0] for name, _ in files}
    assert {"zipfile", "asyncio", "numpy", "numba", "botocore", "rich", "sklearn"} <= packages
    assert not {"pytest", "torch", "vstore"} & packages
    assert not any("tests" in path.parts for _, path in files if "tests" not in Path(__file__).parts[:-3])
    thinned = collect(files, limit=1_500)
    assert len(thinned) == len({one.key for one in thinned}) == 1_500
    assert len({one.package for one in thinned}) > 20


TEXTS = [
    "Open a compressed archive", "List the members of an archive", "Sort a list of numbers",
    "Sort names in a list", "Compress members of the archive", "numbers and names",
]  # fmt: skip


def test_an_embedding_is_unit_length_and_finds_likeness() -> None:
    embedding = Embedding.fit(TEXTS, dim=4)
    vectors = embedding.embed([*TEXTS, "archives with a member", "the zzz qqq"])
    assert vectors.dtype == np.float32
    assert vectors.shape == (8, 4)
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, rtol=1e-5)
    scores = vectors[:6] @ vectors[6]
    assert set(np.argsort(-scores)[:3]) == {0, 1, 4}


def test_an_embedding_that_was_saved_embeds_the_same(tmp_path: Path) -> None:
    embedding = Embedding.fit(TEXTS, dim=4)
    embedding.save(tmp_path / "e.npz")
    again = Embedding.load(tmp_path / "e.npz")
    np.testing.assert_array_equal(again.embed(TEXTS), embedding.embed(TEXTS))
    np.testing.assert_array_equal(Embedding.fit(TEXTS, dim=4).components, embedding.components)


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04broken", b"\x93NUMPY"])
def test_a_damaged_embedding_is_named(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "e.npz").write_bytes(content)
    with pytest.raises(CorruptData, match=r"e\.npz.*vstore demo"):
        Embedding.load(tmp_path / "e.npz")
    with pytest.raises(CorruptData, match="gone"):
        Embedding.load(tmp_path / "gone.npz")


def test_words_and_stems() -> None:
    assert words_of("ZipFile.namelist(self) of the members_list") == [
        "zip",
        "fil",
        "namelist",
        "self",
        "member",
        "list",
    ]
    assert stem("compressed") == stem("compress") == "compress"
    assert stem("archives") == stem("archive")
    assert stem("queries") == stem("query")
