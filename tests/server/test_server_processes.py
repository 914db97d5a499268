"""Processes on one store: a server that writes, servers that read beside it, and tokens between them."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import tomllib
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest

import vstore
from vstore import errors
from vstore_server import __main__ as command

X = np.random.default_rng(5).standard_normal((200, 4)).astype(np.float32)
REFRESH_NEVER_S = "3600"
ROOT = Path(__file__).resolve().parents[2]


@contextmanager
def serving(place, *options, **environment):
    """The url of a `vstore serve` process."""
    command = [sys.executable, "-m", "vstore.cli", "serve", str(place), "--listen", "127.0.0.1:0", *options]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=os.environ | environment)
    try:
        address = process.stdout.readline().split()[-1]
        yield f"vstore://{address}"
        process.send_signal(signal.SIGTERM)
        # However busy the machine is.
        assert process.wait(300) == 0
    finally:
        process.kill()
        process.wait()
        process.stdout.close()


@pytest.fixture(scope="module")
def fleet(tmp_path_factory):
    """A writer and two readers that never look for news by themselves."""
    place = tmp_path_factory.mktemp("fleet") / "store"
    reading = ("--read-only", "--refresh-s", REFRESH_NEVER_S)
    with serving(place) as writer, vstore.connect(writer) as database:
        database.create_collection("c", dim=4, metric="l2").upsert(range(10), X[:10])
        with serving(place, *reading) as first, serving(place, *reading, "--wait-s", "0.05") as second:
            yield writer, first, second


def test_readers_see_what_a_token_stands_for(fleet):
    writer, *readers = fleet
    with vstore.connect(writer) as database:
        written = database.collection("c")
        readings = [vstore.connect(url).collection("c") for url in readers]
        counts = [reading.count() for reading in readings]
        for step in range(5):
            written.upsert(range(100 * step, 100 * step + 20), X[:20])
            if step == 2:
                written.flush()
            if step == 3:
                written.delete([100 * step])
            stale = [reading.count() for reading in readings]
            assert stale == counts
            for reading in readings:
                reading.refresh(at_least=written.version_token)
                assert reading.count() == written.count()
            counts = [reading.count() for reading in readings]


def test_a_handle_reads_what_it_wrote_wherever_it_is_sent(fleet):
    """As behind a balancer: the handle's wire is turned to a reader after the write."""
    writer, reader, _ = fleet
    with vstore.connect(writer) as database, vstore.connect(reader) as other:
        held = database.collection("c")
        assert held.upsert([777], X[:1]) == 1
        held._on = other._wire
        assert [record.id for record in held.get([777])] == [777]
        with pytest.raises(errors.ReadOnly, match="read-only"):
            held.upsert([778], X[:1])


def test_a_token_that_never_comes_is_a_named_error(fleet):
    _, reader, impatient = fleet
    collection_id, seq, version = vstore.connect(reader).collection("c").version_token.split("-")
    future = f"{collection_id}-{int(seq) + 10**6}-{version}"
    with pytest.raises(errors.StaleRead, match="has not seen"):
        vstore.connect(impatient, n_retries=0).collection("c").refresh(at_least=future)


def test_a_setting_bounds_how_old_an_answer_is(tmp_path):
    with serving(tmp_path / "s") as writer, vstore.connect(writer) as database:
        written = database.create_collection("c", dim=4, metric="l2")
        with serving(tmp_path / "s", "--read-only", "--refresh-s", "0") as reader:
            reading = vstore.connect(reader).collection("c")
            for n in range(1, 6):
                written.upsert([n], X[:1])
                assert reading.count() == n
            written.flush()
            snapshot = vstore.connect(reader).collection("c", at=written.version)
            written.delete([1])
            assert (snapshot.count(), reading.count()) == (5, 4)


def test_an_embedded_reader_waits_too(tmp_path):
    with vstore.connect(tmp_path) as writing, vstore.connect(tmp_path, read_only=True) as reading:
        written = writing.create_collection("c", dim=4, metric="l2")
        read = reading.collection("c")
        written.upsert(range(5), X[:5])
        assert read.count() == 0
        read.refresh(at_least=written.version_token)
        assert read.count() == 5
        other = writing.create_collection("d", dim=4)
        with pytest.raises(errors.StaleRead, match="another collection's"):
            read.refresh(at_least=other.version_token, timeout_s=0)


@pytest.mark.s3
def test_readers_beside_a_writer_on_one_bucket(s3_server, s3_url):
    options = s3_server.options
    environment = {
        "AWS_ACCESS_KEY_ID": options["access_key_id"],
        "AWS_SECRET_ACCESS_KEY": options["secret_access_key"],
    }
    place = (s3_url, "--endpoint-url", options["endpoint_url"], "--region", options["region"])
    reading = ("--read-only", "--refresh-s", REFRESH_NEVER_S)
    with serving(*place, **environment) as writer, vstore.connect(writer) as database:
        written = database.create_collection("c", dim=4, metric="l2")
        written.upsert(range(10), X[:10])
        with (
            serving(*place, *reading, **environment) as first,
            serving(*place, *reading, **environment) as second,
        ):
            readings = [vstore.connect(url).collection("c") for url in (first, second)]
            for step in range(1, 4):
                written.upsert(range(100 * step, 100 * step + 20), X[:20])
                if step == 2:
                    written.flush()
                assert all(reading.count() < written.count() for reading in readings)
                for reading in readings:
                    reading.refresh(at_least=written.version_token)
                    assert reading.count() == written.count()
                    wanted = written.search(X[0], k=5)
                    assert reading.search(X[0], k=5).hits == wanted.hits


def test_the_command_line_outranks_the_environment_and_that_the_file(tmp_path, monkeypatch):
    config = tmp_path / "server.toml"
    config.write_text(
        'store = "from-file"\nlisten = "127.0.0.1:1"\nslow_ms = 7\nread_only = true\nmax_waiting = 5\n'
        "[limits]\nk = 11\n"
    )
    monkeypatch.setenv("VSTORE_SERVER_CONFIG", str(config))
    monkeypatch.setenv("VSTORE_SERVER_LISTEN", "127.0.0.1:2")
    monkeypatch.setenv("VSTORE_SERVER_SLOW_MS", "8")
    monkeypatch.setenv("VSTORE_SERVER_METRICS", "127.0.0.1:9464")
    options = command._options(["given", "--slow-ms", "9"], "vstore serve")
    settings = command._settings(options)
    assert (options["store"], options["read_only"]) == ("given", True)
    assert (settings.listen, settings.slow_ms, settings.max_waiting) == ("127.0.0.1:2", 9.0, 5)
    assert (settings.limits.k, settings.metrics) == (11, "127.0.0.1:9464")
    monkeypatch.setenv("VSTORE_SERVER_SLOW_MS", "soon")
    with pytest.raises(errors.InvalidSetting, match="must be a number"):
        command._options(["given"], "vstore serve")


def test_the_page_shows_a_file_that_can_be_read_and_every_option(tmp_path, capsys):
    page = (ROOT / "docs" / "SERVER.md").read_text()
    (block,) = re.findall(r"```toml\n(.*?)```", page, re.DOTALL)
    path = tmp_path / "server.toml"
    path.write_text(block)
    options = command._options(["--config", str(path)], "vstore serve")
    assert options == tomllib.loads(block)
    assert command._settings(options).limits.k == 1000
    with pytest.raises(SystemExit):
        command.main(["--help"], "vstore serve")
    shown = set(re.findall(r"--[a-z][a-z-]+", capsys.readouterr().out)) - {"--help", "--name", "--role"}
    assert {name for name in shown if f"`{name}" not in page} == set()
