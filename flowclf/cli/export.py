"""`flowclf export`: a trained run as one program for other runtimes."""

from __future__ import annotations

from dataclasses import asdict
from enum import StrEnum
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from flowclf.cli.output import AsJson, DataDir, RunFolder, message, print_json, print_table, status

if TYPE_CHECKING:
    from flowclf.export import Exported


class Format(StrEnum):
    """Format of the file."""

    onnx = "onnx"
    torch_export = "torch-export"


def export(
    run: RunFolder,
    format: Annotated[Format, typer.Option(help="Format of the file.")] = Format.onnx,
    out: Annotated[
        Path | None, typer.Option(help="File to write; default RUN/export/model.onnx or model.pt2.")
    ] = None,
    tolerance: Annotated[
        float | None,
        typer.Option(help="Largest relative difference from the model; default 1e-4.", min=0),
    ] = None,
    data_dir: DataDir = None,
    as_json: AsJson = False,
) -> None:
    """Export log p(y|x) and log p(x) of a run as one program, which is compared with the model.

    It takes x of any batch size, float32, in the units of the data. Open .pt2 files (torch-export)
    only from people you trust: torch unpickles them.
    """
    from flowclf.export import SUFFIXES, TOLERANCE, ExportFailed, export_model
    from flowclf.training.task import load_task

    task = load_task(run, data_dir, "cpu")
    path = out or run / "export" / f"model{SUFFIXES[format.value]}"
    bound = TOLERANCE if tolerance is None else tolerance
    start = partial(export_model, task.model, path, task.test.x, format=format.value)
    try:
        with status("export: ") as report:
            exported = start(tolerance=bound, report=report)
    except ExportFailed as error:
        message(f"flowclf: {error}")
        raise typer.Exit(1) from None
    if not as_json:
        _print(exported)
        return
    print_json(
        {
            "file": str(exported.path),
            "format": format.value,
            "bytes": exported.path.stat().st_size,
            "outputs": exported.outputs,
            **exported.metadata,
            "differences": [asdict(found) for found in exported.differences],
        }
    )


def _print(exported: Exported) -> None:
    rows = []
    for name in exported.outputs:
        found = [each for each in exported.differences if each.output == name]
        absolute, relative = (max(e.absolute for e in found), max(e.relative for e in found))
        rows.append((name, f"{absolute:.1e}", f"{relative:.1e}"))
    sizes = sorted({found.batch for found in exported.differences})
    title = f"largest difference from the model, in batches of {', '.join(map(str, sizes))}"
    print_table(title, ("output", "nats", "relative"), rows)
    metadata = exported.metadata
    shape = ", ".join(map(str, metadata["shape"]))
    offset = metadata["whole_level_offset"] if metadata.get("levels") else 0
    hint = f"; to whole grey levels add {offset:g}" if offset else ""
    print(f"input    x (batch, {shape}), float32{hint}")
    print(f"file     {exported.path} ({exported.path.stat().st_size / 1e6:.1f} MB)")
