"""Options that several verbs share."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

__all__ = ["AsJson", "DataDir", "Device", "RunFolder", "Where"]


class Device(StrEnum):
    """Where to compute."""

    auto = "auto"
    cpu = "cpu"
    cuda = "cuda"


AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON document.")]
DataDir = Annotated[Path | None, typer.Option(help="Where to look for data first.")]
RunFolder = Annotated[Path, typer.Argument(help="Folder of a trained run.")]
Where = Annotated[Device, typer.Option("--device", help="Where to compute.")]
