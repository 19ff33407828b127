"""`flowclf report`."""

from pathlib import Path
from typing import Annotated

import typer

from flowclf.cli.output import AsJson, print_json


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
    as_json: AsJson = False,
) -> None:
    """Write one self-contained page: which runs there are, what they found, how to repeat them."""
    from flowclf.report import write_report

    written = write_report(folders, out)
    if as_json:
        print_json(written)
        return
    size = written["bytes"]
    print(f"report   {out}")
    print(f"runs     {written['runs']}")
    print(f"size     {size / 1e6:.1f} MB" if size >= 1e6 else f"size     {size / 1e3:.0f} kB")
