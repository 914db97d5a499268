"""What is installed: the right packages, nothing generic at the top, and an import that stays light."""

from __future__ import annotations

import importlib.metadata
import os
import re
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from pathlib import Path

import pytest

import vstore

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = {"vstore", "vstore_kernels", "vstore_server"}
HEAVY = ("torch", "transformers", "boto3", "botocore", "grpc", "matplotlib", "sklearn", "pyarrow", "PIL")
# Not scipy: numba imports it by itself where it is installed.
IMPORT_LIMIT_S = 0.5


@pytest.fixture(scope="module")
def project() -> dict[str, object]:
    with open(ROOT / "pyproject.toml", "rb") as file:
        return tomllib.load(file)["project"]


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("dist")
    subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "-d", str(folder)],
        cwd=ROOT,
        check=True,
        capture_output=True,
    )
    return folder


def test_the_wheel_holds_the_three_packages_and_no_other(built: Path) -> None:
    (wheel,) = built.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
    tops = {name.partition("/")[0] for name in names}
    assert {top for top in tops if not top.endswith(".dist-info")} == PACKAGES
    assert "vstore/py.typed" in names
    assert any(name.endswith("licenses/LICENSE") for name in names)
    sources = {str(path.relative_to(ROOT)) for path in (ROOT / "vstore").rglob("*.py")}
    assert sources <= set(names)


def test_the_sdist_holds_what_a_rebuild_and_its_tests_need(built: Path) -> None:
    (sdist,) = built.glob("*.tar.gz")
    with tarfile.open(sdist) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    wanted = {"pyproject.toml", "README.md", "LICENSE", "Makefile", "constraints.txt", "vstore/__init__.py"}
    wanted |= {
        "kernels/vstore_kernels/__init__.py",
        "server/vstore_server/__init__.py",
        "tests/test_packaging.py",
    }
    assert wanted <= names
    assert not {"kernels/__init__.py", "server/__init__.py"} & names


def test_the_version_is_one(project: dict[str, object]) -> None:
    assert vstore.__version__ == project["version"] == importlib.metadata.version("vstore")


def test_the_console_command_is_installed() -> None:
    (entry,) = [e for e in importlib.metadata.entry_points(group="console_scripts") if e.name == "vstore"]
    assert entry.value == "vstore.cli:main"


def test_every_dependency_is_pinned(project: dict[str, object]) -> None:
    pins = {}
    for line in (ROOT / "constraints.txt").read_text().splitlines():
        if line and not line.startswith("#"):
            name, equals, version = line.partition("==")
            assert equals, f"constraints.txt: {line!r} is no exact pin"
            assert re.fullmatch(r"[\w.!]+", version), f"constraints.txt: {line!r} must not name a local build"
            pins[normal(name)] = version
    required = list(project["dependencies"])  # type: ignore[call-overload]
    for extra in project["optional-dependencies"].values():  # type: ignore[attr-defined]
        required += extra
    names = {normal(re.match(r"[\w.-]+", one).group()) for one in required}  # type: ignore[union-attr]
    assert names - {"vstore"} <= set(pins)
    assert pins["torch"] == "2.13.0"


def normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def test_import_does_not_draw_in_heavy_packages() -> None:
    program = f"import sys, vstore; print([name for name in {HEAVY!r} if name in sys.modules])"
    ended = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert ended.stdout.strip() == "[]"


def import_cost_s(statement: str, bytecode: Path) -> float:
    """Processor seconds of an import in a fresh process that has numba already; the best of five."""
    program = (
        "import time; import numba, numpy; started = time.process_time();"
        f"{statement}; print(time.process_time() - started)"
    )
    # Users have bytecode; an environment that forbids writing it would have every run compile the sources.
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    environment["PYTHONPYCACHEPREFIX"] = str(bytecode)
    return min(
        float(
            subprocess.run(
                [sys.executable, "-c", program], capture_output=True, text=True, check=True, env=environment
            ).stdout
        )
        for _ in range(5)
    )


def test_import_is_fast_beside_numba(tmp_path: Path) -> None:
    # Processor time, not wall time: tests run beside each other, and waiting for a core is no one's import.
    assert import_cost_s("import vstore", tmp_path) < IMPORT_LIMIT_S


def test_the_import_limit_would_notice_a_heavy_package(tmp_path: Path) -> None:
    pytest.importorskip("torch", reason="needs the rerank extra")
    assert import_cost_s("import vstore, torch", tmp_path) > IMPORT_LIMIT_S
