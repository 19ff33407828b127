"""Checkpoints: everything that a run needs to go on as if it had never stopped."""

import time
from pathlib import Path
from typing import Annotated

import torch
from pydantic import Field, ValidationError
from torch import Tensor

from flowclf.classifier import GenerativeClassifier
from flowclf.models import check_architecture
from flowclf.runs import Run
from flowclf.settings import Section, Weight
from flowclf.support.errors import UserError
from flowclf.support.safetensors import DamagedFile, read_tensors, write_tensors

__all__ = ["Clock", "Position", "load_checkpoint", "save_checkpoint"]

MODEL, GUESSER = "model.", "guesser."


class Position(Section):
    """Steps done, and seconds and CPU seconds of training until then."""

    run: str = ""  # identity of the run
    step: Annotated[int, Field(ge=0)] = 0
    seconds: Weight = 0.0
    cpu_seconds: Weight = 0.0
    sums: dict[str, float] = {}  # of the loss terms in the epoch that has begun


class Clock:
    """Clock that counts on from a position, so that resuming does not reset a run's time."""

    def __init__(self, start: Position) -> None:
        self._run = start.run
        self._start = time.perf_counter() - start.seconds
        self._cpu_start = time.process_time() - start.cpu_seconds

    @property
    def cpu_seconds(self) -> float:
        """CPU seconds of the run, over all processes that resumed it."""
        return time.process_time() - self._cpu_start

    def at(self, step: int, sums: dict[str, float] | None = None) -> Position:
        """Return the position after so many steps, now."""
        seconds = time.perf_counter() - self._start
        spent = self.cpu_seconds
        return Position(
            run=self._run, step=step, seconds=seconds, cpu_seconds=spent, sums=sums or {}
        )


def save_checkpoint(
    run: Run,
    model: GenerativeClassifier,
    optimizer: torch.optim.Optimizer,
    position: Position,
    keep: bool = True,
    guesser: GenerativeClassifier | None = None,
) -> None:
    """Save weights and buffers, those of the guesser, the optimiser's tensors, and the position.

    There is nothing else to remember: order, noise, dropout and learning rate follow from seed and
    step, hyperparameters from config.yaml, and no precision that can be set scales gradients.

    The optimiser's tensors of parameter 3 are "AdamW.3.exp_avg" … With `keep` the checkpoint that
    is replaced stays as the previous one.

    Raises:
        OSError: it could not be written; the checkpoint before is intact.
    """
    tensors = {MODEL + name: value for name, value in model.state_dict().items()}
    if guesser is not None:
        tensors |= {GUESSER + name: value for name, value in guesser.state_dict().items()}
    kind = type(optimizer).__name__
    for number, state in optimizer.state_dict()["state"].items():
        moments = {name: value for name, value in state.items() if value is not None}
        tensors |= {f"{kind}.{number}.{name}": value for name, value in moments.items()}
    previous = run.previous_checkpoint_file
    note = position.model_dump_json()
    write_tensors(run.checkpoint_file, tensors, note, previous if keep else None)
    if not keep:
        previous.unlink(missing_ok=True)


def load_checkpoint(
    run: Run,
    model: GenerativeClassifier,
    optimizer: torch.optim.Optimizer,
    guesser: GenerativeClassifier | None = None,
) -> Position:
    """Restore model, guesser and optimiser in place, and return the position to go on from.

    A damaged checkpoint is refused; only the user may fall back to the previous one.

    Raises:
        UserError: no checkpoint, a damaged one, or one of another run, architecture or optimiser.
    """
    path, previous = run.checkpoint_file, run.previous_checkpoint_file
    if not run.has_checkpoint:
        pickled = path.with_suffix(".pt")
        missing = f"{path} does not exist: there is nothing to resume"
        old = f"{pickled} is of an older flowclf, whose pickled checkpoints are no longer read"
        raise UserError(f"{old if pickled.exists() else missing}; train anew with --out")
    # Between the two renames of a save there is but the previous one.
    path = path if path.is_file() else previous
    tensors, position = _read(path, run)
    weights, others = _taken(tensors, MODEL), _taken(tensors, GUESSER)
    check_architecture(model.state_dict(), weights, path)
    run.check_identity(position.run, path)
    if guesser is not None:
        check_architecture(guesser.state_dict(), others, path)
        guesser.load_state_dict(others)
    state = _moments(tensors, optimizer, path)
    model.load_state_dict(weights)
    groups = optimizer.state_dict()["param_groups"]
    optimizer.load_state_dict({"state": state, "param_groups": groups})
    return position


def _taken(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """Take the tensors with a prefix out, without it."""
    names = [name for name in tensors if name.startswith(prefix)]
    return {name.removeprefix(prefix): tensors.pop(name) for name in names}


def _read(path: Path, run: Run) -> tuple[dict[str, Tensor], Position]:
    try:
        tensors, note = read_tensors(path, unverified=True)  # which have no position
        return tensors, Position.model_validate_json(note)
    except ValidationError:
        damage = f"{path} is damaged, or no checkpoint of this version"
    except DamagedFile as error:
        damage = str(error)
    before = path == run.checkpoint_file and run.previous_checkpoint_file.is_file()
    remedy = "delete it to go on from the one before" if before else "train anew with --out"
    raise DamagedFile(f"{damage}; {remedy}")


def _moments(
    tensors: dict[str, Tensor], optimizer: torch.optim.Optimizer, path: Path
) -> dict[int, dict[str, Tensor]]:
    """Return the optimiser's state by parameter number, copied out of the mapped file."""
    kind = type(optimizer).__name__
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    places = {f"{kind}.{number}": number for number in range(len(parameters))}
    state: dict[int, dict[str, Tensor]] = {}
    for name, value in tensors.items():
        place, _, key = name.rpartition(".")
        number = places.get(place)
        if number is None or (value.ndim and value.shape != parameters[number].shape):
            raise UserError(f"{path} belongs to another optimiser: {kind} here has no {name}")
        state.setdefault(number, {})[key] = value.clone()
    return state
