"""`vstore lab run`, `plot` and `report`: experiments from files."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from vstore.cli.output import count

ExperimentFile = Annotated[Path, typer.Argument(metavar="EXPERIMENT", help="A TOML file: docs/LAB.md.")]
Out = Annotated[
    Path | None, typer.Option("--out", help="Folder of the results; default: lab-results/NAME here.")
]


def register(app: typer.Typer) -> None:
    """Add the commands of this module."""
    lab = typer.Typer(
        name="lab",
        help="Run experiments on filtered traversal, over simulated caches and stores.",
        no_args_is_help=True,
    )
    lab.command(epilog="Example: vstore lab run docs/lab/quick.toml")(run)
    lab.command(epilog="Example: vstore lab plot docs/lab/quick.toml")(plot)
    lab.command(epilog="Example: vstore lab report docs/lab/quick.toml")(report)
    app.add_typer(lab, epilog="Example: vstore lab run docs/lab/quick.toml")


def run(
    experiment: ExperimentFile,
    out: Out = None,
    processes: Annotated[int, typer.Option(min=1, help="Cells that run at once.")] = 2,
    traces: Annotated[bool, typer.Option("--traces", help="Also keep the trace of every query.")] = False,
) -> None:
    """Run an experiment, or what is left of it, and write its table."""
    from vstore.lab.experiment import read_experiment
    from vstore.lab.runner import run_experiment

    asked = read_experiment(experiment)
    folder = out or _folder(asked.name)
    table = run_experiment(asked, folder, processes, traces=traces)
    print(f"{count(len(asked.cells), 'cell')}, {count(len(table), 'row')}: {folder / 'table.csv'}")


def plot(experiment: ExperimentFile, out: Out = None) -> None:
    """Draw the pictures of an experiment that was run."""
    from vstore.lab.experiment import read_experiment
    from vstore.lab.report import write_pictures

    asked = read_experiment(experiment)
    for path in write_pictures(asked, out or _folder(asked.name)):
        print(path)


def report(experiment: ExperimentFile, out: Out = None) -> None:
    """Write one HTML page, pictures inside, of an experiment that was run."""
    from vstore.lab.experiment import read_experiment
    from vstore.lab.report import write_report

    asked = read_experiment(experiment)
    print(write_report(asked, out or _folder(asked.name)))


def _folder(name: str) -> Path:
    return Path("lab-results") / name
