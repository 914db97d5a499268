"""The packages and the layers inside vstore point one way; import-linter reads pyproject.toml."""

from __future__ import annotations

import subprocess
import sys
import tomllib
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def test_imports_keep_the_layers() -> None:
    program = "import sys; from importlinter.cli import lint_imports; sys.exit(lint_imports(no_cache=True))"
    ended = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert ended.returncode == 0, ended.stdout + ended.stderr


def test_every_module_of_vstore_has_a_layer() -> None:
    # import-linter says nothing of a module that no layer names, so a new one could import anything.
    with open(ROOT / "pyproject.toml", "rb") as file:
        contracts = tomllib.load(file)["tool"]["importlinter"]["contracts"]
    (inside,) = [contract for contract in contracts if contract.get("containers") == ["vstore"]]
    modules = {path.stem for path in (ROOT / "vstore").glob("*.py")}
    packages = {path.parent.name for path in (ROOT / "vstore").glob("*/__init__.py")}
    assert (modules | packages) - {"__init__", "__main__"} == set(inside["layers"])
