"""A server under mixed load while everything around it goes wrong; what it answered, lost and kept.

    python -m benchmarks.soak [--minutes 30] [--seed 1] [--out FILE]

One server, a process of its own, on a folder whose store fails, loses answers, cuts and flips what is
read. Owners, each with its own ids and a model of them, write, delete, get, count and search exactly, and
compare. Beside them clients are killed in the middle of a write, tokens are wrong, and messages malformed.
Owners send a write again until it is acknowledged. At the end the server is killed, and every acknowledged
row is looked for in the folder. Exit status 1: a wrong answer, a lost row, or memory that grows.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import vstore
import vstore_server
from vstore_server.auth import Token, Tokens, hash_token

from .report import machine, versions
from .soak_clients import DIM, TOKEN, Chaos, Killer, Owner, Tally, maintain

N_OWNERS = 3
SAMPLE_S = 5.0
MOST_GROWTH = 0.05


def serve(folder: str, seed: int) -> None:
    """Serve a folder through a store that fails, until standard input ends."""
    from vstore.storage.local import LocalStore
    from vstore.storage.wrappers.faults import FaultStore, seeded_faults
    from vstore.storage.wrappers.retry import RetryStore

    faults = seeded_faults(seed, error_rate=0.01, lost_rate=0.01, short_rate=0.002, flip_rate=0.002)
    store = RetryStore(FaultStore(LocalStore(folder), faults, seed), n_retries=3, first_wait_s=0.005)
    settings = vstore.Settings(memtable_rows=2_000, cache_bytes=32 << 20, n_threads=1)
    tokens = Tokens([Token("soak", hash_token(TOKEN), "admin")])
    with vstore.connect(store, settings=settings) as database:
        chosen = vstore_server.ServerSettings(listen="127.0.0.1:0", slow_ms=60_000)
        with vstore_server.BackgroundServer(database, chosen, tokens=tokens) as server:
            print(server.url, flush=True)
            sys.stdin.read()


def rss_bytes(pid: int) -> int:
    """Return the resident memory of a process."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) * 1024
    raise ProcessLookupError(f"process {pid} is gone")


def growth(samples: list[tuple[float, int]], window_s: float) -> float:
    """Return how much the memory of the window's last fifth lies above that of its first, as a share."""
    end_s = samples[-1][0]
    window_s = min(window_s, end_s)
    inside = [(at - end_s + window_s, size) for at, size in samples if at >= end_s - window_s]
    first = statistics.median(size for at, size in inside if at <= window_s / 5)
    last = statistics.median(size for at, size in inside if at >= window_s * 4 / 5)
    return last / first - 1


def run(folder: str, minutes: float, seed: int) -> dict[str, Any]:
    """Run the load and return what came of it."""
    command = [sys.executable, "-m", "benchmarks.soak", "--serve", folder, "--seed", str(seed)]
    server = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert server.stdout is not None
    url = server.stdout.readline().strip()
    killer = Killer(url.removeprefix("vstore://"))
    stop, tally = threading.Event(), Tally()
    with vstore_server.connect(url, token=TOKEN) as admin:
        admin.create_collection("soak", dim=DIM, metric="l2", fields={"owner": "int", "version": "int"})
    owners = [Owner(number, url, seed, stop, tally) for number in range(N_OWNERS)]
    chaos = Chaos(url, killer, seed, stop, tally)
    workers = [threading.Thread(target=owner.run) for owner in owners]
    workers += [
        threading.Thread(target=chaos.run),
        threading.Thread(target=maintain, args=(url, stop, tally)),
    ]
    for worker in workers:
        worker.start()
    started, samples = time.monotonic(), []
    while time.monotonic() - started < minutes * 60 and server.poll() is None and not tally.wrong:
        samples.append((time.monotonic() - started, rss_bytes(server.pid)))
        stop.wait(SAMPLE_S if minutes > 5 else 0.5)
        if int(samples[-1][0]) % 60 < SAMPLE_S and minutes > 5:
            print(f"{samples[-1][0]:6.0f} s {samples[-1][1] >> 20} MiB {dict(tally.counts)}", flush=True)
    died = server.poll() is not None
    stop.set()
    for worker in workers:
        worker.join(120)
    killer.close()
    server.kill()
    server.wait()
    print(*tally.wrong, sep="\n", flush=True)
    lost = check(folder, owners)
    window_s = min(600.0, minutes * 60 / 3)
    return {
        "minutes": round((time.monotonic() - started) / 60, 2),
        "counts": dict(sorted(tally.counts.items())),
        "wrong_answers": tally.wrong,
        "server_died": died,
        "stuck_workers": sum(worker.is_alive() for worker in workers),
        "rows_at_the_end": sum(len(owner.rows) for owner in owners),
        "lost_or_wrong_rows": lost,
        "memory_window_s": window_s,
        "memory_growth": round(growth(samples, window_s), 4),
        "memory_mib": [[round(at), size >> 20] for at, size in samples[:: max(1, len(samples) // 60)]],
    }


def check(folder: str, owners: list[Owner]) -> list[str]:
    """Open the folder as a crash left it, without faults, and return what is not as it was acknowledged."""
    lost: list[str] = []
    with vstore.connect(folder, read_only=True) as database:
        collection = database.collection("soak")
        for owner in owners:
            lost += owner.differences(collection)
    return lost


def main() -> int:
    """Run the command line; return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--minutes", type=float, default=30.0)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--out", help="where the JSON goes; default: standard output alone")
    parser.add_argument("--serve", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.serve:
        serve(options.serve, options.seed)
        return 0
    with tempfile.TemporaryDirectory() as folder:
        result = run(folder, options.minutes, options.seed)
    result = {"seed": options.seed, "machine": machine(), "versions": versions(), **result}
    text = json.dumps(result, indent=1)
    print(text)
    if options.out:
        Path(options.out).write_text(text + "\n", encoding="utf-8")
    # Memory settles for minutes: of a short run it says nothing.
    grew = options.minutes >= 30 and result["memory_growth"] > MOST_GROWTH
    bad = result["wrong_answers"] or result["lost_or_wrong_rows"] or result["server_died"]
    return 1 if bad or grew or result["stuck_workers"] else 0


if __name__ == "__main__":
    sys.exit(main())
