"""nflows 0.14 transforms as maps of ours, and maps of ours as nflows transforms."""

from collections.abc import Callable

from nflows.transforms import Transform
from torch import Tensor

from couplings.core import Invertible, Shape, ShapeError, constant_log_det
from couplings.interop._log_det import per_sample

__all__ = ["FromNFlows", "ToNFlows"]


class FromNFlows(Invertible):
    """Transform of nflows as a map; log_det (B,) as the transform computes it.

    Args:
        transform: the transform.
        shape: shape of one sample.
        out_shape: shape of one output, where it differs (nflows cannot tell beforehand).
        context_features: width of the context; 0: none is passed on.

    Raises:
        ShapeError: when run, an output of another shape than `out_shape`.
    """

    def __init__(
        self,
        transform: Transform,
        shape: Shape,
        out_shape: Shape | None = None,
        context_features: int = 0,
    ) -> None:
        super().__init__(shape, out_shape, context_features)
        self.transform = transform

    def _forward(self, x: Tensor, context: Tensor | None) -> tuple[Tensor, Tensor]:
        return self._run(self.transform, x, context, self.out_shape)

    def _inverse(self, z: Tensor, context: Tensor | None) -> tuple[Tensor, Tensor]:
        return self._run(self.transform.inverse, z, context, self.in_shape)

    def _run(
        self,
        function: Callable[[Tensor, Tensor | None], tuple[Tensor, Tensor]],
        x: Tensor,
        context: Tensor | None,
        out_shape: Shape,
    ) -> tuple[Tensor, Tensor]:
        # The splines look for the smallest input: they cannot take an empty batch.
        if len(x) == 0:
            return x.reshape(0, *out_shape), constant_log_det(x, 0.0)
        name = f"FromNFlows({type(self.transform).__name__})"
        z, log_det = function(x, context)
        if z.shape != (len(x), *out_shape):
            raise ShapeError(
                f"{name}: expected output of shape {(len(x), *out_shape)}, got {tuple(z.shape)}; "
                "pass shape and out_shape of the transform"
            )
        return z, per_sample(name, log_det, x)


class ToNFlows(Transform):  # type: ignore[misc]  # nflows is not annotated
    """Map of ours as an nflows transform: `Flow(ToNFlows(map), StandardNormal(map.out_shape))`."""

    def __init__(self, map_: Invertible) -> None:
        super().__init__()
        self.map = map_

    def forward(self, inputs: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Return z and log|det dz/dx| (B,)."""
        out: tuple[Tensor, Tensor] = self.map(inputs, context)
        return out

    def inverse(self, inputs: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Return x and log|det dx/dz| (B,)."""
        return self.map.inverse(inputs, context)
