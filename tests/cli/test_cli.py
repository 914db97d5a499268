"""info, search, warm, compact: what they print, and how they end."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from cli_run import Shell

import vstore

COMMANDS = ("demo", "info", "import", "search", "warm", "compact")


@pytest.mark.parametrize("command", COMMANDS)
def test_help_shows_an_example(shell: Shell, command: str) -> None:
    ended = shell(command, "--help")
    assert ended.code == 0
    assert f"Example: vstore {command} " in " ".join(ended.out.split())


def test_version_and_help(shell: Shell) -> None:
    assert shell("--version").out == f"vstore {vstore.__version__}\n"
    out = shell("--help").out
    assert all(command in out for command in COMMANDS)


def test_info(shell: Shell, photos: Path) -> None:
    ended = shell("info", photos, "--json")
    assert ended.code == 0
    (described,) = ended.json["collections"]
    assert described["name"] == "photos"
    assert described["n_rows"] == 60
    assert described["n_shards"] == 1
    assert described["dim"] == 8
    assert described["fields"] == {"year": "int", "tags": "list[str]"}
    assert described["n_bytes"] > 0
    text = shell("info", photos, "photos")
    assert "photos fields: year: int, tags: list[str]" in text.out
    assert text.err == ""


def test_info_of_a_store_without_collections(shell: Shell, photos: Path) -> None:
    with vstore.connect(photos) as db:
        db.drop_collection("photos")
    assert "no collections" in shell("info", photos).out


def test_search_like_a_row(shell: Shell, photos: Path) -> None:
    ended = shell("search", photos, "photos", "--like", "p7", "-k", 3, "--json")
    assert ended.code == 0
    hits = ended.json["hits"]
    assert hits[0]["id"] == "p7"
    assert len(hits) == 3
    assert hits[0]["score"] == pytest.approx(1, abs=1e-5)
    assert hits[0]["attributes"] == {"year": 2007, "tags": ["bird"]}
    assert ended.json["receipt"]["n_rows"] == 60
    text = shell("search", photos, "photos", "--like", "p7")
    assert "p7" in text.out
    assert "plan    " in text.out
    assert "receipt " in text.out


def test_search_by_vector_with_a_filter(shell: Shell, photos: Path, tmp_path: Path) -> None:
    query = np.ones(8, np.float32)
    np.save(tmp_path / "query.npy", query)
    written = ["--filter", '{"year": {"$lt": 2010}, "tags": {"$contains": "boat"}}', "-k", 50, "--json"]
    ended = shell("search", photos, "photos", "--vector", json.dumps(query.tolist()), *written)
    assert {hit["id"] for hit in ended.json["hits"]} == {"p0", "p2", "p4", "p6", "p8"}
    from_file = shell("search", photos, "photos", "--vector", tmp_path / "query.npy", *written)
    assert from_file.json["hits"] == ended.json["hits"]
    none = shell("search", photos, "photos", "--like", "p1", "--filter", '{"year": 1900}')
    assert none.code == 0
    assert "no row matches" in none.out


def test_search_reranks(shell: Shell, photos: Path) -> None:
    ended = shell(
        "search",
        photos,
        "photos",
        "--like",
        "p1",
        "--rerank",
        "lexical",
        "--text",
        "picture 44",
        "-k",
        5,
        "--json",
    )
    assert ended.json["hits"][0]["id"] == "p44"
    assert ended.json["receipt"]["rerank"][0]["n_scored"] == 50


def test_search_explains(shell: Shell, photos: Path) -> None:
    ended = shell(
        "search", photos, "photos", "--like", "p1", "--filter", '{"year": {"$lt": 2010}}', "--explain"
    )
    assert ended.code == 0
    assert ended.out.startswith("plan    ")
    planned = shell("search", photos, "photos", "--like", "p1", "--explain", "--json")
    assert planned.json["plans"]


def test_warm_and_compact(shell: Shell, photos: Path) -> None:
    with vstore.connect(photos) as db:
        db.collection("photos").flush()
        db.collection("photos").delete(filter={"year": {"$lt": 2010}})
    warm = shell("warm", photos, "photos", "--json")
    assert warm.code == 0
    assert warm.json["bytes_fetched"] > 0
    assert warm.json["n_shards"] == 2
    compact = shell("compact", photos, "photos", "--json")
    assert compact.code == 0
    (after,) = compact.json["after"]["collections"]
    assert (after["n_shards"], after["n_rows"], after["n_dead"]) == (1, 50, 0)
    assert "50 rows, 1 -> 1 shards" in shell("compact", photos, "photos").out


@pytest.mark.parametrize(
    ("arguments", "error", "word"),
    [
        (["info", "{missing}"], "BucketNotFound", "missing"),
        (["info", "{file}"], "NotAStore", "file"),
        (["info", "{photos}", "photo"], "CollectionNotFound", "did you mean 'photos'"),
        (["warm", "{photos}", "photo"], "CollectionNotFound", "photos"),
        (["search", "{photos}", "photos", "--like", "nobody"], "InvalidInput", "nobody"),
        (["search", "{photos}", "photos", "--vector", "[1, 2]"], "DimensionMismatch", "8"),
        (["search", "{photos}", "photos", "--vector", "[0,0,0,0,0,0,0,0]"], "InvalidVector", "cosine"),
        (["search", "{photos}", "photos", "--like", "p1", "--filter", '{"yaer": 1}'], "UnknownField", "year"),
        (["search", "{photos}", "photos", "--like", "p1", "--recall", "2"], "InvalidSetting", "recall"),
        (["info", "ftp://host/x"], "InvalidSetting", "ftp"),
    ],
)
def test_a_named_error_is_one_line_and_exit_code_1(
    shell: Shell, photos: Path, tmp_path: Path, arguments: list[str], error: str, word: str
) -> None:
    (tmp_path / "file").write_text("no store")
    names = {"{photos}": photos, "{missing}": tmp_path / "missing", "{file}": tmp_path / "file"}
    ended = shell(*(names.get(one, one) for one in arguments))
    assert ended.code == 1
    assert ended.out == ""
    assert ended.err.count("\n") == 1
    assert ended.err.startswith(f"vstore: {error}: ")
    assert word in ended.err
    assert not (tmp_path / "missing").exists()


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        (["search", "{photos}", "photos"], "--like"),
        (["search", "{photos}", "photos", "--like", "p1", "-k", "0"], "-k"),
        (["search", "{photos}", "photos", "--like", "p1", "--filter", "{"], "JSON"),
        (["search", "{photos}", "photos", "--like", "p1", "--filter", "[]"], "JSON object"),
        (["search", "{photos}", "photos", "--like", "p1", "--rerank", "lexical"], "--text"),
        (["search", "{photos}", "photos", "--vector", "nowhere.npy"], "--vector"),
        (["info"], "URI"),
        (["inform"], "inform"),
    ],
)
def test_a_wrong_command_line_is_exit_code_2(
    shell: Shell, photos: Path, arguments: list[str], word: str
) -> None:
    ended = shell(*(photos if one == "{photos}" else one for one in arguments))
    assert ended.code == 2
    assert word in ended.err


def test_reading_commands_write_nothing(shell: Shell, photos: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in photos.rglob("*")}
    for arguments in (
        ["info", photos],
        ["search", photos, "photos", "--like", "p1"],
        ["warm", photos, "photos"],
    ):
        assert shell(*arguments).code == 0
    assert {path: path.stat().st_mtime_ns for path in photos.rglob("*")} == before


def test_as_a_module_in_a_pipe_that_closes(photos: Path) -> None:
    program = [sys.executable, "-m", "vstore.cli", "info", str(photos), "--json"]
    with subprocess.Popen(program, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.close()
        errors = process.stderr.read().decode()
    assert "Traceback" not in errors
