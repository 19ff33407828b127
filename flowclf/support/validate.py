"""Validation of what public calls are given, and of what they return.

x passes `samples` and `finite` once where it enters, and its result passes `numbers` once where it
leaves; every error names the argument and what was expected. Type, shape, dtype and device are
always checked. Values (NaN, labels out of range) are checked on the CPU, on other devices outside
of training only, since reading them there waits for the device, and never while a program is
compiled, exported or vectorised, or within `unchecked_values`.
"""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from math import inf
from numbers import Integral, Real
from typing import Any

import torch
from torch import Tensor

from couplings.core import Shape
from couplings.ops.dispatch import needs_reference
from flowclf.support.errors import UserError

__all__ = [
    "as_sequence",
    "at_least",
    "batch_norm_of_one",
    "finite",
    "generator",
    "grey_units",
    "indices",
    "latents",
    "numbers",
    "one_of",
    "readable",
    "rows",
    "sample_shape",
    "samples",
    "temperature",
    "unchecked_values",
]

_UNCHECKED = ContextVar("unchecked", default=False)


@contextmanager
def unchecked_values() -> Iterator[None]:
    """Check no values within the block: NaN passes through, and no device is waited for."""
    token = _UNCHECKED.set(True)
    try:
        yield
    finally:
        _UNCHECKED.reset(token)


def readable(values: Tensor, training: bool) -> bool:
    """Return True if values can be read, and cheaply enough to be checked."""
    if needs_reference() or values.is_meta or _UNCHECKED.get():
        return False
    return values.device.type == "cpu" or not training


def sample_shape(shape: Shape) -> Shape:
    """Return the shape of one sample, (C, H, W) or (F,); raise ValueError for other axes."""
    if len(shape) not in (1, 3):
        raise ValueError(f"expected (C, H, W) or (F,), got {shape}")
    return shape


def numbers(
    name: str,
    values: Tensor,
    given: str,
    x: Tensor,
    training: bool = False,
    *,
    infinite: bool = True,
) -> Tensor:
    """Return the results (B, ...) computed from `given`, x (B, ...): the check at the exit.

    In training values on other devices than the CPU are trusted; `infinite` accepts ±infinity.

    Raises:
        UserError: a NaN, or an infinity unless `infinite`; the message says how large x is.
    """
    wrong = _wrong(values, training, infinite)
    if wrong is not None:
        bad = wrong.flatten(1).any(1) if wrong.dim() > 1 else wrong
        raise UserError(
            f"expected {name} that is a number, got {'NaN' if infinite else 'NaN or infinity'} "
            f"for {int(bad.sum())} of {len(bad)} samples (the largest |{given}| is "
            f"{float(x.detach().abs().max()):.3g}): {given} is too large for {x.dtype}, or "
            "training has diverged; fix the data, or train again with a lower train.lr"
        )
    return values


def samples(name: str, x: Any, shape: Shape, like: Tensor | None = None) -> None:
    """Raise UserError unless x is a batch (B, *shape) of real numbers, on the device of `like`."""
    _tensor(name, x)
    if x.dim() == 0 or tuple(x.shape[1:]) != shape:
        inner = ", ".join(map(str, shape))
        raise UserError(f"expected {name} of shape (B, {inner}), got {tuple(x.shape)}")
    if x.is_complex():
        raise UserError(f"expected {name} of real numbers, got {x.dtype}; take its real part")
    if like is not None:
        _device(name, x, like)


def latents(name: str, z: Any, dims: int, like: Tensor) -> None:
    """Raise UserError unless z holds floating-point latents (B, D) on the device of `like`."""
    samples(name, z, (dims,), like)
    if not z.is_floating_point():
        raise UserError(f"expected {name} of floating-point numbers, got {z.dtype}")


def grey_units(name: str, x: Tensor, levels: int, width: float, training: bool) -> bool:
    """Warn of floating images x that are hardly in grey levels; return whether it did.

    These are images within 0…1, and whole numbers, which stand at the lower edges of their levels,
    without the dequantisation that a model with noise of that `width` was trained with. Of x that
    is all one number nothing can be said.
    """
    if not (x.numel() and readable(x, training)):
        return False
    low, high = (float(value) for value in x.detach().aminmax())
    if low == high:
        return False
    if levels > 2 and low >= 0 and high <= 1:
        remedy = f"multiply them by {levels - 1} and round"
        what = f"floats within {low:.3g}…{high:.3g}, where levels are 0…{levels - 1}; {remedy}"
    elif (
        width
        and levels > 2
        and low >= 0
        and high < levels
        and bool((x.detach() == x.detach().round()).all())
    ):
        remedy = "give them as uint8, or add 0.5"
        what = f"whole floats, which stand at the lower edges of their levels; {remedy}"
    else:
        return False
    warnings.warn(f"expected {name} in grey levels, got {what}", UserWarning, stacklevel=5)
    return True


def indices(
    name: str,
    values: Any,
    what: str,
    count: int,
    like: Tensor,
    *,
    length: int | None = None,
    none: bool = False,
    training: bool = False,
) -> Tensor:
    """Return integers 0..count-1 (B,) as int64; with `none`, -1 is allowed as well.

    In training values on other devices than the CPU are trusted.

    Args:
        name, values: the argument.
        what: plural noun for the message, e.g. "labels".
        count: number of choices.
        like: tensor on the expected device.
        length: B; None: any.

    Raises:
        UserError: another type, shape, dtype, device or value.
    """
    _tensor(name, values)
    wanted = "(B,)" if length is None else f"({length},)"
    if values.dim() != 1 or (length is not None and len(values) != length):
        raise UserError(
            f"expected {name} of shape {wanted}, one for each sample, got {tuple(values.shape)}"
        )
    expected = f"{name}: expected integer {what} 0..{count - 1}" + ", or -1 for none" * none
    if values.dtype == torch.bool or values.is_floating_point() or values.is_complex():
        raise UserError(f"{expected}, got {values.dtype}")
    _device(name, values, like)
    values = values.long()
    if readable(values, training):
        wrong = (values < -none) | (values >= count)
        if bool(wrong.any()):
            raise UserError(f"{expected}, got {values[wrong][0].item()}")
    return values


def finite(name: str, values: Tensor, training: bool = False) -> None:
    """Check that (B, ...) values are finite.

    Raises:
        UserError: a NaN or an infinity; the message names the first.
    """
    wrong = _wrong(values, training, infinite=False)
    if wrong is not None:
        bad = wrong.flatten(1).any(1)
        raise UserError(
            f"expected {name} of finite numbers, got {values[wrong][0].item()} in "
            f"{int(bad.sum())} of {len(values)} samples (first sample {int(bad.nonzero()[0])}); "
            "remove or correct them"
        )


def rows(name: str, x: Tensor) -> None:
    """Raise UserError if x holds no sample to learn from."""
    if len(x) == 0:
        raise UserError(f"expected at least one sample in {name} to learn from, got none")


def temperature(value: Any) -> None:
    """Raise UserError unless a sampling temperature is finite and not negative."""
    if not isinstance(value, Real) or not 0 <= float(value) < inf:
        raise UserError(
            f"expected temperature >= 0, got {value!r}; a finite number, 1 for the model's own"
        )


def at_least(name: str, value: Any, least: int) -> None:
    """Raise UserError unless value is an integer >= least."""
    if not isinstance(value, Integral) or int(value) < least:
        raise UserError(f"expected {name} of at least {least}, got {value!r}; a whole number")


def generator(value: Any) -> None:
    """Raise UserError unless value is a torch.Generator or None."""
    if value is not None and not isinstance(value, torch.Generator):
        raise UserError(
            f"expected generator as a torch.Generator, got {type(value).__name__}; "
            "torch.Generator().manual_seed(0) makes one"
        )


def as_sequence(value: Any) -> Any:
    """Return 6 or "6,6", as the command line has them, as [6] or ["6", "6"]."""
    if isinstance(value, str):
        return [part for part in value.split(",") if part]
    return value if isinstance(value, list | tuple) else [value]


def one_of(name: str, value: object, choices: tuple[str, ...]) -> None:
    """Raise UserError unless value is one of the choices."""
    if value not in choices:
        raise UserError(f"expected {name} to be {' or '.join(choices)}, got {value!r}")


def batch_norm_of_one(error: ValueError, x: Tensor) -> ValueError:
    """Return BatchNorm's refusal to normalize a single row as a UserError, other errors as is."""
    if len(x) != 1 or "more than 1 value per channel" not in str(error):
        return error
    return UserError(
        "expected at least 2 samples in training mode, as BatchNorm takes their average, got 1; "
        "give a larger batch, or call model.eval() first"
    )


def _wrong(values: Tensor, training: bool, infinite: bool) -> Tensor | None:
    """Return a mask of NaN, and of infinity unless `infinite`; None if there are none."""
    if not values.is_floating_point() or not readable(values, training):
        return None
    values = values.detach()
    # A sum propagates every non-finite value, in a thirtieth of the time.
    total = values.sum()
    if bool(total.isfinite()) or (infinite and not bool(total.isnan())):
        return None
    wrong = values.isnan() if infinite else ~values.isfinite()
    return wrong if bool(wrong.any()) else None


def _tensor(name: str, value: Any) -> None:
    if not isinstance(value, Tensor):
        raise UserError(
            f"expected {name} as a tensor, got {type(value).__name__}; torch.as_tensor makes one"
        )
    if value.layout != torch.strided or value.is_quantized or value.is_nested:
        kind = "quantized" if value.is_quantized else "nested" if value.is_nested else value.layout
        raise UserError(
            f"expected {name} as a dense tensor, got a {kind} one; to_dense() makes one"
        )


def _device(name: str, value: Tensor, like: Tensor) -> None:
    if value.device != like.device:
        raise UserError(
            f"expected {name} on {like.device}, where the model is, got {value.device}; "
            f"move it with .to({str(like.device)!r})"
        )
