"""Form in which samples travel between page and model: bytes of images, numbers of tables."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from typing import Annotated, Any

import numpy as np
import torch
from pydantic import BaseModel, ConfigDict, Field, model_validator
from torch import Tensor

from flowclf.support.errors import UserError

__all__ = ["Finite", "Place", "Wire", "rounded"]

Finite = Annotated[float, Field(allow_inf_nan=False)]
GIF_SIDE, GIF_MS = 224, 60


class Place(BaseModel):
    """One sample to start from: of the map, the average of a class, or the user's own."""

    model_config = ConfigDict(extra="forbid")

    sample: int | None = None  # number on the map
    class_: Annotated[int | None, Field(alias="class")] = None
    x: str | list[Finite] | None = None  # as `Wire.pack` has it

    @model_validator(mode="after")
    def _is_one(self) -> Place:
        if sum(each is not None for each in (self.sample, self.class_, self.x)) != 1:
            raise ValueError("expected one of sample, class and x")
        return self


class Wire:
    """Packs and unpacks samples of one shape.

    Images are base64 of bytes (N, C, H, W), 0 for the lowest level and 255 for the highest; rows of
    tables are lists of numbers.

    Args:
        shape: of one sample.
        levels: grey levels of an image; None for tables.
    """

    def __init__(self, shape: tuple[int, ...], levels: int | None) -> None:
        self.shape, self.levels = shape, levels
        self.dims = int(torch.Size(shape).numel())

    def pack(self, x: Tensor) -> str | list[Any]:
        """Pack samples x (N, *shape), in data units; a point between levels is the lower one's."""
        if self.levels is None:
            return rounded(x)
        return base64.b64encode(self._bytes(x).tobytes()).decode()

    def unpack(self, x: str | Sequence[float]) -> Tensor:
        """Unpack one sample: (1, *shape).

        Raises:
            UserError: another form or size.
        """
        if self.levels is None or not isinstance(x, str):
            if self.levels is not None or isinstance(x, str) or len(x) != self.dims:
                raise UserError(f"expected x as {self._form}")
            return torch.tensor([x], dtype=torch.float32)
        try:
            found = base64.b64decode(x, validate=True)
        except ValueError:
            found = b""
        if len(found) != self.dims:
            raise UserError(f"expected x as {self._form}")
        grey = torch.from_numpy(np.frombuffer(found, np.uint8).copy()).view(1, *self.shape)
        return (grey * ((self.levels - 1) / 255)).round().byte()

    def film(self, x: Tensor) -> str:
        """Draw images x (N, C, H, W) as an animated GIF, there and back: base64."""
        from PIL import Image

        scale = max(1, GIF_SIDE // max(self.shape[1:]))
        frames = []
        for pixels in np.moveaxis(self._bytes(x), 1, -1):
            image = Image.fromarray(pixels.squeeze(-1) if pixels.shape[-1] == 1 else pixels)
            size = (image.width * scale, image.height * scale)
            frames.append(image.resize(size, Image.Resampling.NEAREST))
        file = io.BytesIO()
        rest = [*frames[1:], *frames[-2:0:-1]]
        frames[0].save(file, "GIF", save_all=True, append_images=rest, duration=GIF_MS, loop=0)
        return base64.b64encode(file.getvalue()).decode()

    @property
    def _form(self) -> str:
        if self.levels is None:
            return f"{self.dims} numbers"
        return f"base64 of {self.dims} bytes"

    def _bytes(self, x: Tensor) -> Any:
        """Return images as bytes of grey levels 0 … 255."""
        assert self.levels is not None
        grey = x.float().nan_to_num().floor().clamp(0, self.levels - 1)
        return (grey * (255 / (self.levels - 1))).round().byte().cpu().numpy()


def rounded(x: Tensor, digits: int = 4) -> Any:
    """Return a tensor as nested lists of numbers, None for those that are not finite."""
    if x.ndim:
        return [rounded(part, digits) for part in x] if x.ndim > 1 else [
            round(v, digits) if abs(v) < float("inf") else None for v in x.tolist()
        ]  # fmt: skip
    return round(float(x), digits)
