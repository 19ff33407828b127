"""`flowclf report`."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from flowclf.cli.output import AsJson, DataDir, message, print_json
from flowclf.support.errors import UserError

if TYPE_CHECKING:
    from flowclf.report.collect import Entry


def report(
    folders: Annotated[
        list[Path],
        typer.Argument(
            metavar="DIR_OR_RUNS...",
            help="A sweep, a study, any folder that contains runs, or runs themselves.",
        ),
    ],
    out: Annotated[Path, typer.Option(help="The page to write, an .html file.")] = Path(
        "report.html"
    ),
    baselines: Annotated[bool, typer.Option(help="Also rows of QDA and others.")] = True,
    data_dir: DataDir = None,
    as_json: AsJson = False,
) -> None:
    """Write one self-contained page: which runs there are, what they found, how to repeat them."""
    from flowclf.report import write_report

    notes: list[str] = []

    def fitted(entry: Entry) -> Iterable[dict[str, Any]]:
        """Fit baselines to the data of a run, where they are there as they were."""
        from flowclf.evaluation.baselines import baseline_rows
        from flowclf.runs import Run
        from flowclf.training.setup import splits

        try:
            data = Run(entry.folder).load_data(data_dir)
        except UserError as error:
            notes.append(f"note: no baselines of {entry.data}: {error}")
            return ()
        training, _, test = splits(entry.config, data)
        return baseline_rows(training, test, data.levels, data.features is not None)

    written = write_report(folders, out, *([fitted] if baselines else []))
    for note in notes:
        message(note)
    if as_json:
        print_json(written)
        return
    size = written["bytes"]
    print(f"report   {out}")
    print(f"runs     {written['runs']}")
    print(f"size     {size / 1e6:.1f} MB" if size >= 1e6 else f"size     {size / 1e3:.0f} kB")
