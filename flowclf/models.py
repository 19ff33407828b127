"""Make a model by name, and load a trained one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from couplings.core import Shape
from flowclf.classifier import GenerativeClassifier
from flowclf.config import make_settings
from flowclf.errors import UserError
from flowclf.runs import Run
from flowclf.systems import find_system

__all__ = ["build", "load", "load_weights", "save_weights"]

IMAGE_LEVELS = 256


def build(
    system: str,
    *,
    shape: Shape,
    classes: int,
    levels: int | None = None,
    preset: str | None = None,
    beta: float | None = None,
    seed: int = 0,
    **settings: Any,
) -> GenerativeClassifier:
    """An untrained model.

    Args:
        system: a name of `flowclf systems`.
        shape: (C, H, W) for images, (F,) for tables.
        classes: K.
        levels: grey levels of an image; default 256.
        preset: default "image" or "mlp", by the shape.
        beta: β̃, the weight of the decision.
        seed: of weights, rotations and permutations.
        settings: sections of the system's settings, e.g. network={"kind": "mlp", "blocks": 6}.

    Raises:
        UserError: unknown names, or values out of range.
    """
    shape = tuple(shape)
    if len(shape) not in (1, 3) or classes < 2:
        raise UserError(
            f"expected shape (C, H, W) or (F,) and at least 2 classes, got {shape} and {classes}"
        )
    if levels is None and len(shape) == 3:
        levels = IMAGE_LEVELS
    typed = make_settings(system, shape, preset, beta, settings)
    return find_system(system).build(shape, classes, levels, typed, seed)


def load(run_or_path: str | Path, device: torch.device | str = "cpu") -> GenerativeClassifier:
    """The trained model of a run folder, in eval mode.

    Raises:
        UserError: not a run folder, a run that has not ended, or weights of another architecture.
    """
    run = Run(Path(run_or_path))
    config, facts = run.read_config()
    system = find_system(config.system)
    model = system.build(facts.shape, facts.classes, facts.levels, config.model, config.seed)
    load_weights(model, run.weights_file)
    return model.eval().to(device)


def save_weights(model: GenerativeClassifier, path: Path) -> None:
    """model.safetensors, written whole."""
    from safetensors.torch import save_file

    from flowclf.files import write_whole

    state = {name: value.contiguous() for name, value in model.state_dict().items()}
    write_whole(path, lambda part: save_file(state, part))


def load_weights(model: GenerativeClassifier, path: Path) -> None:
    """Read what `save_weights` wrote into a model of the same architecture.

    Raises:
        UserError: no such file, a damaged one, or one of another architecture.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    if not path.is_file():
        raise UserError(
            f"{path.parent} has no {path.name}: the run has not ended; go on with "
            f"flowclf train --resume {path.parent}"
        )
    try:
        state = load_file(path)
    except (SafetensorError, OSError) as error:
        raise UserError(f"{path} is damaged: {error}") from None
    check_architecture(model.state_dict(), state, path)
    model.load_state_dict(state)


def check_architecture(
    expected: dict[str, torch.Tensor], got: dict[str, torch.Tensor], path: Path
) -> None:
    """Refuse weights whose names or shapes are not the model's.

    Raises:
        UserError: naming the first difference.
    """
    for name in sorted(expected.keys() | got.keys()):
        shapes = [tuple(s[name].shape) if name in s else "nothing" for s in (expected, got)]
        if shapes[0] != shapes[1]:
            raise UserError(
                f"{path} belongs to another architecture: expected {shapes[0]} for {name}, "
                f"got {shapes[1]}"
            )
