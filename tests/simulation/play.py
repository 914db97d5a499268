"""Play histories: `python tests/simulation/play.py --histories 2000`; what fails is named by its seed.

With `--fields` other histories, in which fields come and go too.
It goes on after a failure, and ends with what was played and which seeds failed.
"""

from __future__ import annotations

import argparse
import sys
from collections import Counter
from pathlib import Path

sys.path[:0] = [str(Path(__file__).parent), str(Path(__file__).parent.parent / "ingest")]

from actors import Actors  # noqa: E402
from fields import FieldActors  # noqa: E402
from sim import InlinePool  # noqa: E402

import vstore.ingest.reader  # noqa: E402

LAST_LINES = 40


def play(seed: int, fields: bool = False) -> Actors:
    """Play one history, or one in which fields change; what goes wrong carries seed and last calls."""
    # Pools would make the order of calls a matter of chance; each history has its own order from its seed.
    vstore.ingest.reader.ThreadPoolExecutor = InlinePool  # type: ignore[misc, assignment]
    simulation = FieldActors(seed) if fields else Actors(seed)
    try:
        simulation.run()
    except BaseException as error:
        last = "\n".join(simulation.trace[-LAST_LINES:])
        error.add_note(f"seed {seed}, after:\n{last}")
        raise
    return simulation


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--histories", type=int, default=2000)
    parser.add_argument("--first", type=int, default=0, help="the first seed")
    parser.add_argument("--fields", action="store_true", help="histories in which fields come and go")
    parser.add_argument("--every", type=int, default=100, help="histories between two lines of progress")
    asked = parser.parse_args()
    counts: Counter[str] = Counter()
    failed: dict[int, str] = {}
    for seed in range(asked.first, asked.first + asked.histories):
        try:
            played = play(seed, asked.fields)
        except Exception as error:
            failed[seed] = f"{type(error).__name__}: {str(error)[:200]}"
            print(f"seed {seed}: {failed[seed]}", flush=True)
            continue
        counts["storage calls"] += sum(" " in line for line in played.trace)
        counts["acknowledged writes"] += played.n_acknowledged
        for what in (
            "refused",
            "lost",
            "late",
            "torn",
            "slow",
            "stale",
            "crashed",
            "WriterFenced",
            " added ",
            " dropped ",
        ):
            counts[what] += sum(what in line for line in played.trace)
        counts["late puts that nobody reads"] += played.world.n_zombies
        if (seed + 1 - asked.first) % asked.every == 0:
            print(f"{seed + 1 - asked.first} of {asked.histories} histories", file=sys.stderr, flush=True)
    print(f"{asked.histories} histories from seed {asked.first}: {len(failed)} failed {sorted(failed)}")
    print(", ".join(f"{what} {n}" for what, n in counts.items()))
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
