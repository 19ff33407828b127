"""Folder of a saved model: written and read."""

from hashlib import sha256
from importlib.metadata import version
from math import inf
from pathlib import Path
from typing import Any, Literal

import torch
from pydantic import ValidationError

from flowclf.settings import ModelInfo, Section
from flowclf.sharing.card import model_card
from flowclf.support.atomic_files import check_new, json_text, write_text
from flowclf.support.errors import UserError
from flowclf.support.parse import read_json, read_text
from flowclf.support.safetensors import write_tensors

__all__ = ["Saved", "check_settings", "is_saved", "read_folder", "write_folder"]

CONFIG, WEIGHTS, CARD = "config.json", "model.safetensors", "README.md"


class Saved(Section):
    """Content of config.json."""

    flowclf: str  # the version that wrote it
    dtype: Literal["float64", "float32", "bfloat16", "float16"]  # of the weights
    info: ModelInfo  # where the model comes from
    settings: dict[str, Any]  # of the system, all of them; infinity is the string "inf"

    @property
    def torch_dtype(self) -> torch.dtype:
        """The torch dtype that `dtype` names."""
        dtype: torch.dtype = getattr(torch, self.dtype)
        return dtype


def write_folder(folder: Path, model: Any, name: str | None = None) -> None:
    """Write model.safetensors, README.md and, at last, config.json.

    Args:
        folder: new or empty.
        model: a GenerativeClassifier, which is above this module.
        name: what the card loads the model by; None: the folder's.

    Raises:
        UserError: the folder holds something, or the model has no `info`.
    """
    if model.info is None:
        raise UserError(
            f"expected a model of flowclf.build, train or load, got a {type(model).__name__} "
            "made by hand; give it an `info`, a flowclf.sharing.ModelInfo"
        )
    check_new(folder)
    document = {
        "flowclf": version("flowclf"),
        "dtype": str(model.mixture.means.dtype).removeprefix("torch."),
        "info": model.info.model_dump(mode="json"),
        "settings": _plain(model.settings.model_dump(mode="json")),
    }
    able = {
        "log_posterior": True,
        "log_prob": model.has_density,
        "elbo": model.has_elbo and not model.has_density,
        "sample": model.can_sample,
    }
    learned = sum(p.numel() for p in model.parameters() if p.requires_grad)
    calls = tuple(name for name, there in able.items() if there)
    card = model_card(model.info, document["settings"], learned, calls, name or folder.name)
    text = json_text(document)
    # The weights name their settings: what is edited or exchanged afterwards is refused.
    write_tensors(folder / WEIGHTS, model.state_dict(), _identity(text))
    write_text(folder / CARD, card)
    write_text(folder / CONFIG, text)


def is_saved(folder: Path) -> bool:
    """Return True if `write_folder` wrote the folder."""
    return (folder / CONFIG).is_file()


def read_folder(folder: Path) -> tuple[Saved, Path]:
    """Read config.json; return it with the path of the weights.

    Raises:
        UserError: a damaged config.json, one of something else, or no weights.
    """
    file, weights = folder / CONFIG, folder / WEIGHTS
    document = read_json(file)
    try:
        saved = Saved.model_validate(document)
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(map(str, first["loc"]))
        raise UserError(
            f"{file} is not of a model that flowclf saved, or damaged: {key}: {first['msg']}"
        ) from None
    if not weights.is_file():
        raise UserError(f"{folder} has no {WEIGHTS}: it is not complete; save the model again")
    return saved, weights


def check_settings(folder: Path, named: str) -> None:
    """Check that config.json is the one that the weights name; older ones name none.

    Raises:
        UserError: it was edited, or belongs to other weights.
    """
    file = folder / CONFIG
    if named and named != _identity(read_text(file)):
        raise UserError(
            f"{file} was edited, or belongs to other weights: its sha256 is not the one that "
            f"{WEIGHTS} names; copy or download the folder again"
        )


def _identity(text: str) -> str:
    return sha256(text.encode()).hexdigest()


def _plain(value: Any) -> Any:
    """Spell infinity as a string, which JSON lacks and pydantic reads as the number."""
    if isinstance(value, dict):
        return {key: _plain(part) for key, part in value.items()}
    if isinstance(value, list):
        return [_plain(part) for part in value]
    return str(value) if value in (inf, -inf) else value
