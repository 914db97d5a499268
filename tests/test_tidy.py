"""Rules of the house that a machine can check: sizes, source roots, and what files must not say."""

from __future__ import annotations

import ast
import re
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
FOLDERS = ("vstore", "kernels", "server", "tests", "benchmarks")
MAX_FILE_LINES = 500
MAX_FUNCTION_LINES = 70
# Written so that this file does not find itself.
MACHINE_PATH = re.compile(r"/(w[o]rk|f[a]rm|r[o]ot|h[o]me)/")
LEFT_OPEN = re.compile(r"\b(T[O]DO|F[I]XME|X[X]X)\b")


def python_files() -> list[Path]:
    return sorted(path for folder in FOLDERS for path in (ROOT / folder).rglob("*.py"))


def tracked_files() -> list[Path]:
    if not (ROOT / ".git").exists():
        return python_files()
    listed = subprocess.run(
        ["git", "ls-files", "-z"], cwd=ROOT, check=True, capture_output=True, text=True
    ).stdout.split("\0")
    return [ROOT / name for name in listed if name and (ROOT / name).is_file()]


def test_no_file_is_longer_than_500_lines() -> None:
    lengths = {path.relative_to(ROOT): len(path.read_text().splitlines()) for path in python_files()}
    assert {str(path): n for path, n in lengths.items() if n > MAX_FILE_LINES} == {}


def test_no_function_is_longer_than_70_lines() -> None:
    long = {}
    for path in python_files():
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                n_lines = (node.end_lineno or 0) - node.lineno + 1
                if n_lines > MAX_FUNCTION_LINES:
                    long[f"{path.relative_to(ROOT)}:{node.lineno} {node.name}"] = n_lines
    assert long == {}


@pytest.mark.parametrize("folder", ["kernels", "server", "tests"])
def test_source_roots_are_no_packages(folder: str) -> None:
    # A top-level package `kernels` would shadow the one that transformers imports.
    assert not (ROOT / folder / "__init__.py").exists()


def test_no_file_names_a_path_of_one_machine() -> None:
    found = {}
    for path in tracked_files():
        try:
            text = path.read_text()
        except UnicodeDecodeError:
            continue
        for number, line in enumerate(text.splitlines(), 1):
            if MACHINE_PATH.search(line):
                found[f"{path.relative_to(ROOT)}:{number}"] = line.strip()
    assert found == {}


def test_nothing_is_left_open_in_the_code() -> None:
    found = {
        f"{path.relative_to(ROOT)}:{number}": line.strip()
        for path in python_files()
        for number, line in enumerate(path.read_text().splitlines(), 1)
        if LEFT_OPEN.search(line)
    }
    assert found == {}


def test_test_modules_have_names_of_their_own() -> None:
    # pytest imports them as top-level modules: two of one name cannot both be imported.
    names = [path.name for path in (ROOT / "tests").rglob("*.py") if path.name != "conftest.py"]
    assert sorted(name for name in set(names) if names.count(name) > 1) == []
