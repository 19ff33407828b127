"""Options that several verbs share."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from flowclf.support.errors import UserError

__all__ = ["AsJson", "DataDir", "Device", "RunFolder", "Where", "whole_numbers"]


class Device(StrEnum):
    """Where to compute."""

    auto = "auto"
    cpu = "cpu"
    cuda = "cuda"


AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON document.")]
DataDir = Annotated[Path | None, typer.Option(help="Where to look for data first.")]
RunFolder = Annotated[Path, typer.Argument(help="Folder of a trained run.")]
Where = Annotated[Device, typer.Option("--device", help="Where to compute.")]


def whole_numbers(option: str, text: str, example: str) -> list[int]:
    """ "2,1,1" to [1, 2]: each once, in order.

    Raises:
        UserError: anything but whole numbers with commas between them.
    """
    try:
        return sorted({int(number) for number in text.split(",")})
    except ValueError:
        raise UserError(f"expected {option} like {example}, got {text!r}") from None
