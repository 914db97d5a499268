"""Compiling kernels is told in one line, once a process, and nothing else is."""

from __future__ import annotations

import subprocess
import sys

PROGRAM = """
import logging
import numba
import vstore

logging.basicConfig(level=logging.INFO, format="%(message)s")
vstore.connect("memory://")
vstore.connect("memory://")


def compiled(module):
    def function(x):
        return x + 1

    function.__module__ = module
    numba.njit(function)(1)


compiled("their.own")
print("theirs")
compiled("vstore_kernels.some")
compiled("vstore_kernels.other")
"""


def run(*arguments: str) -> subprocess.CompletedProcess:
    return subprocess.run([*arguments], capture_output=True, text=True, check=True)


def test_one_line_to_the_log_where_there_is_no_terminal():
    ended = run(sys.executable, "-u", "-c", PROGRAM)
    lines = [line for line in ended.stderr.splitlines() if "compiling" in line]
    assert lines == ["vstore: compiling search kernels (first use on this machine, about 20 seconds)"]
    silent = PROGRAM.replace("level=logging.INFO", "level=logging.WARNING")
    assert "compiling" not in run(sys.executable, "-c", silent).stderr


def test_one_line_on_a_terminal(tmp_path):
    import pty

    program = tmp_path / "program.py"
    program.write_text(PROGRAM.replace("level=logging.INFO", "level=logging.WARNING"))
    seen: list[bytes] = []

    def read(descriptor: int) -> bytes:
        import os

        data = os.read(descriptor, 4096)
        seen.append(data)
        return data

    assert pty.spawn([sys.executable, str(program)], read) == 0
    text = b"".join(seen).decode()
    assert text.count("compiling search kernels") == 1
    assert text.index("theirs") < text.index("compiling")
