"""`vstore demo` on a thinned corpus: on a folder, on a real S3 server, and asked again."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from cli_run import Shell

import vstore
from vstore.cli.demo import COLLECTION


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """The demo's folder, and what it printed in a pipe."""
    folder = tmp_path_factory.mktemp("demo") / "data"
    program = [sys.executable, "-m", "vstore.cli", "demo", "--dir", str(folder), "--limit", "3000"]
    ended = subprocess.run(program, capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL)
    assert ended.returncode == 0, ended.stderr
    assert ended.stderr == ""
    return folder, ended.stdout


def test_it_says_what_it_does_and_shows_everything(built: tuple[Path, str]) -> None:
    _, out = built
    for word in (
        "Reading docstrings",
        "Embedding",
        "Upserting",
        "Flushing",
        "plan  ",
        "receipt ",
        "re-ranked by",
    ):
        assert word in out
    assert out.count("\n== ") == 6
    assert "all 6 answers the same, hit for hit" in out
    assert "F.kind.isin(" in out
    assert '"$in"' in out
    assert "\x1b" not in out


def test_the_collection_stays_and_is_what_it_says(built: tuple[Path, str]) -> None:
    folder, _ = built
    with vstore.connect(folder / "store", read_only=True) as db:
        collection = db.collection(COLLECTION)
        assert len(collection) == 3000
        (record,) = collection.get(["builtins.str.split"])
        assert record is not None
        assert record.attributes["kind"] == "method"
        assert record.attributes["names"] == ["sep", "maxsplit"]
        assert record.document is not None
        assert record.document["text"].startswith("builtins.str.split(")


def test_ask_something_else(built: tuple[Path, str], shell: Shell) -> None:
    folder, _ = built
    ended = shell(
        "demo", "--dir", folder, "--reuse", "--ask", "split a string on a separator", "--filter",
        '{"package": "builtins", "kind": "method"}', "-k", 3, "--json",
    )  # fmt: skip
    assert ended.code == 0, ended.err
    (answer,) = ended.json["answers"]
    assert "second_process" not in ended.json
    assert answer["receipt"]["n_matching"] > 100
    assert {hit["attributes"]["package"] for hit in answer["hits"]} == {"builtins"}
    assert any(hit["id"].endswith("split") for hit in answer["reranked"])
    assert [hit["first_rank"] for hit in answer["hits"]] == [0, 1, 2]


def test_without_a_reranker_and_without_a_store(
    built: tuple[Path, str], shell: Shell, tmp_path: Path
) -> None:
    folder, _ = built
    ended = shell("demo", "--dir", folder, "--reuse", "--rerank", "none", "--json")
    assert all("reranked" not in answer for answer in ended.json["answers"])
    missing = shell("demo", "--dir", tmp_path / "none", "--reuse")
    assert missing.code == 1
    assert re.match(r"vstore: \w+: ", missing.err)
    assert not (tmp_path / "none").exists()


@pytest.mark.s3
def test_on_a_bucket_and_over_an_earlier_run(s3_url: str, s3_options: dict[str, str], tmp_path: Path) -> None:
    environment = {
        **os.environ,
        "AWS_ACCESS_KEY_ID": s3_options["access_key_id"],
        "AWS_SECRET_ACCESS_KEY": s3_options["secret_access_key"],
    }
    program: list[Any] = [
        sys.executable,
        "-m",
        "vstore.cli",
        "demo",
        "--dir",
        tmp_path,
        "--limit",
        "1200",
        "--uri",
        s3_url,
    ]
    program += ["--endpoint-url", s3_options["endpoint_url"], "--region", s3_options["region"], "--json"]
    for _ in range(2):
        ended = subprocess.run(program, capture_output=True, text=True, check=False, env=environment)
        assert ended.returncode == 0, ended.stderr
        assert '"same": true' in ended.stdout
        assert s3_options["secret_access_key"] not in ended.stdout + ended.stderr
    assert "Dropping the collection" in ended.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["embedding.npz"]
