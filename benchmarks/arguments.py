"""The options that the benchmarks share."""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

from .datasets import NAMES, Dataset, load
from .peers import PEERS, QUICK
from .report import RESULTS

QUICK_ROWS = {"fashion": 10_000, "clustered": 20_000, "sentences": 10_000}


def parser(description: str, name: str) -> argparse.ArgumentParser:
    """Return a parser with the shared options."""
    made = argparse.ArgumentParser(
        prog=f"python -m benchmarks.{name}",
        description=description,
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    made.add_argument("--dataset", choices=NAMES, default="fashion")
    made.add_argument("--rows", type=int, help="its first so many rows; by default all")
    made.add_argument("--peers", help=f"comma-separated, of {','.join(PEERS)}; by default all")
    made.add_argument(
        "--quick", action="store_true", help="few rows, peers and repeats: minutes, not figures"
    )
    made.add_argument("--out", type=Path, help="JSON file; a .png of the same name lies beside it")
    made.add_argument(
        "--python",
        default=os.environ.get("VSTORE_BENCH_PYTHON", sys.executable),
        help="the peers' interpreter",
    )
    made.add_argument("--repeats", type=int, default=3)
    made.add_argument("--threads", type=int, default=1, help="of a build; a search has one")
    made.add_argument(
        "--cpu", type=int, default=(os.cpu_count() or 1) - 1, help="searches run there; -1: any"
    )
    made.add_argument("--group", type=int, default=4, help="peers resident at a time, besides two")
    made.add_argument(
        "--clock",
        choices=("wall", "cpu"),
        default="wall",
        help="cpu: by processor time, for a machine that others use",
    )
    return made


def chosen_peers(asked: argparse.Namespace, default: tuple[str, ...] | None = None) -> list[str]:
    """Return the peers to run.

    Raises:
        SystemExit: an unknown name.
    """
    if asked.peers:
        names = [name.strip() for name in asked.peers.split(",") if name.strip()]
        unknown = [name for name in names if name not in PEERS]
        if unknown:
            raise SystemExit(f"--peers: {', '.join(unknown)} unknown; choose of {', '.join(PEERS)}")
        return names
    return list(QUICK if asked.quick else default or PEERS)


def chosen_dataset(asked: argparse.Namespace) -> Dataset:
    """Return the data set to run on.

    Raises:
        SystemExit: what it is made from is missing; the message says what to install.
    """
    rows = asked.rows or (QUICK_ROWS[asked.dataset] if asked.quick else None)
    try:
        return load(asked.dataset, rows)
    except RuntimeError as error:
        raise SystemExit(f"--dataset {asked.dataset}: {error}") from error


def out_path(asked: argparse.Namespace, name: str) -> Path:
    """Return where the JSON goes: benchmarks/results/<name>-<dataset>[-quick].json, or what was asked."""
    given: Path | None = asked.out
    quick = "-quick" if asked.quick else ""
    return given or RESULTS / f"{name}-{asked.dataset}{quick}.json"


def clock_key(asked: argparse.Namespace) -> str:
    """Return the name of the chosen rate in a point."""
    return "qps_cpu" if asked.clock == "cpu" else "qps"
