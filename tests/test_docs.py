"""The documentation is complete and runs: names it must have, links that lead somewhere, Python blocks."""

from __future__ import annotations

import dataclasses
import inspect
import re
import subprocess
import sys
from pathlib import Path

import pytest
import typer.main

import vstore
from vstore import errors
from vstore.cli.app import app

ROOT = Path(__file__).resolve().parent.parent
REFERENCE = (ROOT / "docs" / "REFERENCE.md").read_text()
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")])
RUN_HERE = (
    "README.md",
    "docs/CACHE.md",
    "docs/RERANKING.md",
    "docs/TRAINING.md",
    "docs/LAB.md",
    "docs/lab/parts.md",
    "docs/README.md",
    "docs/REFERENCE.md",
    "ARCHITECTURE.md",
    "CONTRIBUTING.md",
)


def is_documented(name: str) -> bool:
    """Whether a name stands in code quotes, alone or with its arguments."""
    return re.search(rf"`(\w+\.)?{re.escape(name)}(\(|`)", REFERENCE) is not None


def public_methods(kind: type) -> list[str]:
    return [name for name in vars(kind) if not name.startswith("_")]


def error_names() -> list[str]:
    return sorted(
        name
        for name, value in vars(errors).items()
        if inspect.isclass(value) and issubclass(value, errors.VstoreError)
    )


NAMES = [
    *vstore.__all__,
    *public_methods(vstore.Database),
    *public_methods(vstore.Collection),
    *(
        f.name
        for kind in (vstore.Settings, vstore.IndexSettings, vstore.Prices)
        for f in dataclasses.fields(kind)
    ),
    *(f.name for kind in (vstore.Receipt, vstore.Hit, vstore.Record) for f in dataclasses.fields(kind)),
    *error_names(),
]


@pytest.mark.parametrize("name", sorted(set(NAMES)))
def test_every_name_is_in_the_reference(name: str) -> None:
    assert is_documented(name), f"docs/REFERENCE.md does not say what {name} is"


def test_every_error_stands_in_the_tree_at_the_top_of_errors() -> None:
    tree = errors.__doc__ or ""
    assert [name for name in error_names() if not re.search(rf"\b{name}\b", tree)] == []


def test_every_rerank_setting_is_documented() -> None:
    page = (ROOT / "docs" / "RERANKING.md").read_text()
    assert [f.name for f in dataclasses.fields(vstore.Rerank) if f"`{f.name}" not in page] == []


def test_every_command_is_documented_and_shows_an_example() -> None:
    commands = typer.main.get_command(app).commands  # type: ignore[attr-defined]
    upkeep = {"compact", "verify", "export", "gc", "tag", "restore", "add-field", "drop-field"}
    assert set(commands) == {"demo", "info", "import", "search", "warm", "eval", "serve", "lab"} | upkeep
    for name, command in commands.items():
        assert f"`vstore {name}" in REFERENCE
        assert command.epilog.startswith(f"Example: vstore {name} ")
        assert command.help
    for name, command in commands["lab"].commands.items():
        assert f"`vstore lab {name}" in REFERENCE
        assert command.epilog.startswith(f"Example: vstore lab {name} ")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page: Path) -> None:
    targets = re.findall(r"\]\(([^)#\s]+)(?:#[^)]*)?\)", page.read_text())
    missing = [t for t in targets if "://" not in t and not (page.parent / t).exists()]
    assert missing == []


def test_every_page_is_in_the_index() -> None:
    index = (ROOT / "docs" / "README.md").read_text()
    pages = {page.name for page in (ROOT / "docs").glob("*.md")} - {"README.md"}
    assert {name for name in pages if f"({name})" not in index} == set()


@pytest.mark.parametrize("name", RUN_HERE)
def test_python_blocks_run(name: str, tmp_path: Path) -> None:
    blocks = re.findall(r"^```python\n(.*?)^```", (ROOT / name).read_text(), re.DOTALL | re.MULTILINE)
    if name == "README.md":
        assert blocks
    if blocks:
        program = tmp_path / "blocks.py"
        program.write_text("\n".join(blocks))
        ended = subprocess.run(
            [sys.executable, str(program)], cwd=tmp_path, capture_output=True, text=True, check=False
        )
        assert ended.returncode == 0, ended.stderr
