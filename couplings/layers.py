"""Maps between couplings: rotation, permutation, elementwise and reshaping ones."""

from math import log

import torch
from torch import Tensor, nn
from torch.nn.functional import logsigmoid

from couplings.core import Invertible, Shape, ShapeError, constant_log_det, sum_log_det
from couplings.ops.dispatch import full_precision, keeps_channels_last
from couplings.ops.matmul import rotate, unrotate

__all__ = [
    "ChannelMixing",
    "Checkerboard",
    "ElementwiseAffine",
    "Flatten",
    "Logistic",
    "Permutation",
    "PiecewiseLinear",
    "Rotation",
    "SpaceToDepth",
    "Whitening",
    "fit_whitening",
    "random_rotation",
]

# Variances below this fraction of the largest are rounding, not data.
LEAST_VARIANCE = 1e-10
LEAST_ORTHOGONAL = 1e-4


class Rotation(Invertible):
    """Fixed random rotation of the channels, then a learned scale and offset per channel.

        z = exp(g) · (R x) + o,   log_det = H · W · Σ_c g_c

    R in SO(C) is drawn in float64 and kept so: in a module cast to double the map is exact.
    IB-INN calls this the soft permutation and its ActNorm-like scaling.

    Args:
        shape: (C, H, W) or (F,); the first dimension is rotated.
        generator: where R comes from; None: R is the identity.
        scale: initial exp(g).
    """

    float64_buffers = ("rotation",)
    rotation: Tensor

    def __init__(self, shape: Shape, generator: torch.Generator | None, scale: float = 1.0) -> None:
        super().__init__(shape)
        eye = torch.eye(shape[0], dtype=torch.float64)
        drawn = random_rotation(shape[0], generator) if generator else eye
        self.register_buffer("rotation", drawn)
        self.log_scale = nn.Parameter(torch.full((shape[0],), scale).log())
        self.offset = nn.Parameter(torch.zeros(shape[0]))

    def broken_invariant(self) -> str | None:
        """Name orthogonality where R Rᵀ is not I, to 1e-4: of float32 it is to 1e-6."""
        matrix = self.rotation.double()
        error = matrix @ matrix.mT - torch.eye(len(matrix), device=matrix.device).double()
        return None if bool(error.abs().max() < LEAST_ORTHOGONAL) else "orthogonal"

    def _forward(self, x: Tensor, context: Tensor | None) -> tuple[Tensor, Tensor]:
        return rotate(x, self.rotation, self.log_scale, self.offset)

    def _inverse(self, z: Tensor, context: Tensor | None) -> tuple[Tensor, Tensor]:
        return unrotate(z, self.rotation, self.log_scale, self.offset)


class Whitening(Rotation):
    """Rotation whose matrix, scale and offset are fitted to data; the identity until then.

        z = Λ^(-p/2) Uᵀ (x - m),   log_det = -p/2 H · W · Σ_c log λ_c

    m and U Λ Uᵀ are mean and covariance of the channels over samples and positions. A flow of
    identities behind such layers is a Gaussian on patches. Components fall in variance along the
    even channels of U, then along the odd ones, so that both halves of a coupling hold coarse and
    fine ones. Scale and offset are trained on.

    Args:
        shape: (C, H, W) or (F,).
        power: p; 1 gives all components unit variance, less leaves the coarse ones stronger.
    """

    def __init__(self, shape: Shape, power: float = 1.0) -> None:
        super().__init__(shape, generator=None)
        self.power = power

    @torch.no_grad()
    def fit(self, x: Tensor) -> None:
        """Fit to samples x (B, *in_shape), in place.

        Raises:
            ShapeError: as `forward`.
            ValueError: numbers that are not finite.
        """
        self._check(x, self.in_shape, None)
        rows = x.movedim(1, -1).reshape(-1, self.in_shape[0]).double()
        if not bool(rows.isfinite().all()):
            raise ValueError("Whitening: expected finite numbers to be fitted to, got others")
        mean = rows.mean(0)
        rows = rows - mean
        variance, vectors = torch.linalg.eigh(rows.T @ rows / max(len(rows), 1))
        order = torch.arange(len(variance) - 1, -1, -1)
        order = torch.cat((order[::2], order[1::2])).to(x.device)
        variance, vectors = variance[order], vectors[:, order]
        vectors[:, 0] *= torch.linalg.det(vectors).sign()
        largest = variance.max()
        variance = torch.where(largest > 0, variance.clamp_min(LEAST_VARIANCE * largest), 1.0)
        self.rotation.copy_(vectors.T)
        scale = variance.pow(-0.5 * self.power)
        self.log_scale.copy_(scale.log())
        self.offset.copy_(-scale * (vectors.T @ mean))


@torch.no_grad()
def fit_whitening(network: nn.Module, *inputs: object) -> None:
    """Fit each `Whitening` in a network to what reaches it when the network is called on inputs.

    Put a network with BatchNorm into eval mode first, lest its statistics follow.
    """

    def fit(stage: Whitening, arguments: tuple[Tensor, ...]) -> None:
        stage.fit(arguments[0])

    stages = [module for module in network.modules() if isinstance(module, Whitening)]
    hooks = [stage.register_forward_pre_hook(fit) for stage in stages]
    try:
        network(*inputs)
    finally:
        for hook in hooks:
            hook.remove()


class ChannelMixing(Invertible):
    """Learned mixing of the channels, a 1x1 convolution with an offset, by its PLU factors.

        z = W x + o,   W = P L (U + diag(± e^g)),   log_det = H · W · Σ_c g_c

    L is lower triangular with ones on its diagonal, U strictly upper; P and the signs stay as they
    are drawn, with a random rotation W. Kingma and Dhariwal, "Glow: generative flow with invertible
    1x1 convolutions", NeurIPS 2018, Sec. 3.2. The products with W are in the dtype of x, those of
    the factors and their inverses in float64.

    Args:
        shape: (C, H, W) or (F,); the first dimension is mixed.
        generator: where the first W comes from.
    """

    float64_buffers = ("permutation", "signs")
    permutation: Tensor
    signs: Tensor

    def __init__(self, shape: Shape, generator: torch.Generator) -> None:
        super().__init__(shape)
        permutation, lower, upper = torch.linalg.lu(random_rotation(shape[0], generator))
        diagonal = upper.diagonal()
        self.register_buffer("permutation", permutation)
        self.register_buffer("signs", diagonal.sign())
        dtype = torch.get_default_dtype()
        self.lower = nn.Parameter(lower.tril(-1).to(dtype))
        self.upper = nn.Parameter(upper.triu(1).to(dtype))
        self.log_scale = nn.Parameter(diagonal.abs().log().to(dtype))
        self.offset = nn.Parameter(torch.zeros(shape[0]))

    def _forward(self, x: Tensor, context: Tensor | None) -> tuple[Tensor, Tensor]:
        lower, upper = self._factors()
        mixed = _mix(x, self.permutation @ lower @ upper) + self._broadcast(x)
        return mixed, self._log_det(x)

    def _inverse(self, z: Tensor, context: Tensor | None) -> tuple[Tensor, Tensor]:
        lower, upper = self._factors()
        inverse = torch.linalg.solve_triangular(
            lower, self.permutation.T, upper=False, unitriangular=True
        )
        inverse = torch.linalg.solve_triangular(upper, inverse, upper=True)
        return _mix(z - self._broadcast(z), inverse), -self._log_det(z)

    def _factors(self) -> tuple[Tensor, Tensor]:
        """Return L and U with its diagonal, (C, C), float64."""
        ones = torch.ones_like(self.signs)
        lower = self.lower.double().tril(-1) + ones.diag()
        diagonal = self.signs * self.log_scale.double().exp()
        return lower, self.upper.double().triu(1) + diagonal.diag()

    def _broadcast(self, x: Tensor) -> Tensor:
        return self.offset.to(x.dtype).view(-1, *[1] * (x.dim() - 2))

    def _log_det(self, x: Tensor) -> Tensor:
        return constant_log_det(x, self.log_scale.sum() * (self.dims // self.in_shape[0]))


def _mix(x: Tensor, weight: Tensor) -> Tensor:
    """Multiply the channels of x (B, C, ...) by a matrix (C, C)."""
    with full_precision(x):
        return torch.einsum("dc,bc...->bd...", weight.to(x.dtype), x)


class Permutation(Invertible):
    """Fixed random permutation of the channels (or features), log_det = 0."""

    order: Tensor
    inverse_order: Tensor

    def __init__(self, shape: Shape, generator: torch.Generator) -> None:
        super().__init__(shape)
        order = torch.randperm(shape[0], generator=generator)
        self.register_buffer("order", order)
        self.register_buffer("inverse_order", order.argsort())

    def broken_invariant(self) -> str | None:
        """Name the permutation where the two orders do not undo each other."""
        places, both = torch.arange(len(self.order)), (self.order.cpu(), self.inverse_order.cpu())
        whole = all(torch.equal(order.sort().values, places) for order in both)
        return None if whole and torch.equal(both[0][both[1]], places) else "a permutation"

    def _forward(self, x: Tensor, context: Tensor | None) -> tuple[Tensor, Tensor]:
        return x.index_select(1, self.order), constant_log_det(x, 0.0)

    def _inverse(self, z: Tensor, context: Tensor | None) -> tuple[Tensor, Tensor]:
        return z.index_select(1, self.inverse_order), constant_log_det(z, 0.0)


class ElementwiseAffine(Invertible):
    """Standardisation z = (x - shift) / scale with fixed numbers, log_det = -Σ log scale.

    Args:
        shape: shape of one sample.
        shift: broadcastable to `shape`.
        scale: broadcastable to `shape`, positive.

    Raises:
        ValueError: a scale that is not positive and finite.
        ShapeError: numbers that do not broadcast to `shape`.
    """

    shift: Tensor
    scale: Tensor

    def __init__(self, shape: Shape, shift: Tensor, scale: Tensor) -> None:
        super().__init__(shape)
        self.register_buffer("shift", torch.empty(()))
        self.register_buffer("scale", torch.empty(()))
        self.set(shift, scale)

    def set(self, shift: Tensor, scale: Tensor) -> None:
        """Replace both, broadcast to the shape of one sample and kept in this module's dtype."""
        if not _positive(scale):
            raise ValueError("ElementwiseAffine: expected a positive, finite scale everywhere")
        for name, values in (("shift", shift), ("scale", scale)):
            try:
                full = values.expand(self.in_shape).clone()
            except RuntimeError as error:
                raise ShapeError(
                    f"ElementwiseAffine: expected a {name} that broadcasts to {self.in_shape}, "
                    f"got shape {tuple(values.shape)}"
                ) from error
            setattr(self, name, full.to(getattr(self, name)))

    def broken_invariant(self) -> str | None:
        """Name a scale that is not positive and finite."""
        return None if _positive(self.scale) else "of a positive, finite scale"

    def _forward(self, x: Tensor, context: Tensor | None) -> tuple[Tensor, Tensor]:
        return (x - self.shift) / self.scale, -self._log_det(x)

    def _inverse(self, z: Tensor, context: Tensor | None) -> tuple[Tensor, Tensor]:
        return z * self.scale + self.shift, self._log_det(z)

    def _log_det(self, x: Tensor) -> Tensor:
        return constant_log_det(x, self.scale.log().sum())


class YeoJohnson(Invertible):
    """Power map of each number, which straightens skewed marginals.

        z = (ψ(u) - mean) / std,   u = (x - shift) / scale
        ψ(u) = ±((1 + |u|)^λ± - 1) / λ±,   λ+ = λ, λ- = 2 - λ, by the sign of u
        log_det = Σ (λ± - 1) log(1 + |u|) - log scale - log std

    With 0 < λ < 2 it is a bijection of the real line; with λ = 1 it is the identity. The numbers
    are fixed, not learned.

    Yeo, Johnson, "A new family of power transformations", Biometrika 87, 2000.

    Args:
        shape: shape of one sample.
    """

    shift: Tensor
    scale: Tensor
    power: Tensor
    mean: Tensor
    std: Tensor

    def __init__(self, shape: Shape) -> None:
        super().__init__(shape)
        for name in ("shift", "mean"):
            self.register_buffer(name, torch.zeros(shape))
        for name in ("scale", "power", "std"):
            self.register_buffer(name, torch.ones(shape))

    def set(self, **values: Tensor) -> None:
        """Replace numbers by name, of the shape of one sample.

        Raises:
            ValueError: a power outside (0, 2), or a scale or std that is not positive and finite.
        """
        before = {name: getattr(self, name) for name in values}
        for name, value in values.items():
            setattr(self, name, value.expand(self.in_shape).to(before[name]).clone())
        if (wrong := self.broken_invariant()) is not None:
            for name, value in before.items():
                setattr(self, name, value)
            raise ValueError(f"YeoJohnson: expected it to be {wrong}")

    def broken_invariant(self) -> str | None:
        """Name a power outside (0, 2), or a scale that is not positive and finite."""
        if not bool(((self.power > 0) & (self.power < 2)).all()):
            return "of powers between 0 and 2"
        positive = _positive(self.scale) and _positive(self.std)
        return None if positive else "of a positive, finite scale"

    def _forward(self, x: Tensor, context: Tensor | None) -> tuple[Tensor, Tensor]:
        u = (x - self.shift) / self.scale
        sign, power, logs = self._branch(u)
        bent = sign * torch.expm1(power * logs) / power
        return (bent - self.mean) / self.std, self._log_det(power, logs)

    def _inverse(self, z: Tensor, context: Tensor | None) -> tuple[Tensor, Tensor]:
        bent = z * self.std + self.mean
        sign = torch.where(bent >= 0, 1.0, -1.0).to(bent)
        power = torch.where(bent >= 0, self.power, 2 - self.power)
        logs = torch.log1p(power * sign * bent) / power
        u = sign * torch.expm1(logs)
        return u * self.scale + self.shift, -self._log_det(power, logs)

    def _branch(self, u: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return the sign of u, λ± and log(1 + |u|)."""
        sign = torch.where(u >= 0, 1.0, -1.0).to(u)
        return sign, torch.where(u >= 0, self.power, 2 - self.power), torch.log1p(sign * u)

    def _log_det(self, power: Tensor, logs: Tensor) -> Tensor:
        slopes = (power - 1) * logs - self.scale.log() - self.std.log()
        return sum_log_det(slopes)


class PiecewiseLinear(Invertible):
    """Piecewise-linear map of each dimension d, with linear tails.

    z_d lies on the line through (knots_m, values_dm), m = 1…M.

        log_det = Σ_d log slope_d(x_d)

    The knots are fixed numbers, not learned. The end slopes go on beyond the last knots, so the map
    is a bijection of the real line.

    Args:
        shape: shape of one sample, D numbers in all.
        knots: (M,) strictly increasing, shared by all dimensions.
        values: (D, M) strictly increasing along M.

    Raises:
        ShapeError: `knots` or `values` of another shape.
        ValueError: numbers that do not increase.
    """

    # Slopes are differences of values: in float32 the two directions would drift apart.
    float64_buffers = ("knots", "values")
    knots: Tensor
    values: Tensor

    def __init__(self, shape: Shape, knots: Tensor, values: Tensor) -> None:
        super().__init__(shape)
        self.register_buffer("knots", knots.double())
        self.register_buffer("values", values.double())
        self.set(values)

    def set(self, values: Tensor) -> None:
        """Replace the values (D, M) at the knots."""
        expected = (self.dims, len(self.knots))
        if values.shape != expected or self.knots.dim() != 1 or len(self.knots) < 2:
            raise ShapeError(
                f"PiecewiseLinear: expected values of shape {expected} for at least 2 knots, "
                f"got {tuple(values.shape)} for knots {tuple(self.knots.shape)}"
            )
        if not (_increasing(self.knots) and _increasing(values)):
            raise ValueError("PiecewiseLinear: expected strictly increasing knots and values")
        # Memory of its own: a state_dict cannot be loaded into an expanded tensor.
        self.values = values.to(self.values).clone()

    def broken_invariant(self) -> str | None:
        """Name knots or values that do not increase."""
        increasing = _increasing(self.knots) and _increasing(self.values)
        return None if increasing else "of strictly increasing knots and values"

    def _forward(self, x: Tensor, context: Tensor | None) -> tuple[Tensor, Tensor]:
        flat = x.flatten(1).contiguous()
        piece = torch.bucketize(flat, self.knots[1:-1].to(x.dtype))
        start, value, slope = self._pieces(piece, x.dtype)
        z = value + (flat - start) * slope
        return z.view_as(x), sum_log_det(slope.log())

    def _inverse(self, z: Tensor, context: Tensor | None) -> tuple[Tensor, Tensor]:
        flat = z.flatten(1)
        boundaries = self.values[:, 1:-1].to(z.dtype).contiguous()
        piece = torch.searchsorted(boundaries, flat.T.contiguous()).T
        start, value, slope = self._pieces(piece, z.dtype)
        x = start + (flat - value) / slope
        return x.view_as(z), -sum_log_det(slope.log())

    def _pieces(self, piece: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor]:
        slopes = self.values.diff(dim=1) / self.knots.diff()
        start = self.knots.to(dtype)[piece]
        value = self.values.to(dtype).T.gather(0, piece)
        slope = slopes.to(dtype).T.gather(0, piece)
        return start, value, slope


def _positive(scale: Tensor) -> bool:
    return bool((scale > 0).all() and scale.isfinite().all())


def _increasing(values: Tensor) -> bool:
    """Tell whether numbers (..., M) are finite and increase along M."""
    return bool((values.diff(dim=-1) > 0).all() and values.isfinite().all())


class Logistic(Invertible):
    """Logistic map z_d = low + (high - low) σ(x_d) of the real line onto an open interval.

        log_det = Σ_d [ log(high - low) + log σ(x_d) + log σ(-x_d) ]

    A standard logistic x becomes uniform.

    Args:
        shape: shape of one sample.
        low, high: ends of the interval, which the inverse takes to ∓infinity, and what lies outside
            to NaN.

    Raises:
        ValueError: low is not below high.
    """

    def __init__(self, shape: Shape, low: float = 0.0, high: float = 1.0) -> None:
        super().__init__(shape)
        if not low < high:
            raise ValueError(f"Logistic: expected low < high, got {low} and {high}")
        self.low, self.high = low, high

    def _forward(self, x: Tensor, context: Tensor | None) -> tuple[Tensor, Tensor]:
        return self.low + (self.high - self.low) * x.sigmoid(), self._log_det(x)

    def _inverse(self, z: Tensor, context: Tensor | None) -> tuple[Tensor, Tensor]:
        x = (z - self.low).log() - (self.high - z).log()
        return x, -self._log_det(x)

    def _log_det(self, x: Tensor) -> Tensor:
        return sum_log_det(logsigmoid(x) + logsigmoid(-x) + log(self.high - self.low))


class SpaceToDepth(Invertible):
    """Space to depth: (C, H, W) -> (C·fh·fw, H/fh, W/fw), each fh x fw patch to channels by rows.

    Channel order is c0: top-left, top-right, bottom-left, bottom-right; c1: … . log_det = 0. Where
    convolutions want channels innermost in memory, so is the result, and all maps after it.

    Args:
        shape: (C, H, W).
        factor: patch size, one number or (fh, fw).

    Raises:
        ShapeError: not an image shape, or H, W not divisible by the factor.
    """

    def __init__(self, shape: Shape, factor: int | tuple[int, int] = 2) -> None:
        fh, fw = (factor, factor) if isinstance(factor, int) else factor
        c, h, w = image_shape(type(self).__name__, shape)
        if h % fh or w % fw:
            raise ShapeError(
                f"{type(self).__name__}: expected height and width divisible by {(fh, fw)}, "
                f"got shape {shape}; choose another factor, or pad the images first"
            )
        super().__init__(shape, (c * fh * fw, h // fh, w // fw))
        self.factor = (fh, fw)

    def _forward(self, x: Tensor, context: Tensor | None) -> tuple[Tensor, Tensor]:
        (c, _, _), (_, h, w), (fh, fw) = self.in_shape, self.out_shape, self.factor
        patches = x.reshape(x.shape[0], c, h, fh, w, fw)
        if keeps_channels_last(x):
            innermost = patches.permute(0, 2, 4, 1, 3, 5).reshape(x.shape[0], h, w, c * fh * fw)
            return innermost.permute(0, 3, 1, 2), constant_log_det(x, 0.0)
        channels = patches.permute(0, 1, 3, 5, 2, 4).reshape(x.shape[0], *self.out_shape)
        return channels, constant_log_det(x, 0.0)

    def _inverse(self, z: Tensor, context: Tensor | None) -> tuple[Tensor, Tensor]:
        (c, _, _), (_, h, w), (fh, fw) = self.in_shape, self.out_shape, self.factor
        if keeps_channels_last(z):
            innermost = z.permute(0, 2, 3, 1).reshape(z.shape[0], h, w, c, fh, fw)
            pixels = innermost.permute(0, 1, 4, 2, 5, 3).reshape(z.shape[0], h * fh, w * fw, c)
            return pixels.permute(0, 3, 1, 2), constant_log_det(z, 0.0)
        patches = z.reshape(z.shape[0], c, fh, fw, h, w).permute(0, 1, 4, 2, 5, 3)
        return patches.reshape(z.shape[0], *self.in_shape), constant_log_det(z, 0.0)


class Checkerboard(Invertible):
    """Fields of a checkerboard to channels: (C, H, W) -> (2C, H, W/2), black before white.

    A coupling of the result is one of neighbouring positions, all their channels together; its
    `Inverse` behind it brings the image back. log_det = 0.

    Args:
        shape: (C, H, W).

    Raises:
        ShapeError: not an image shape, or an odd width.
    """

    def __init__(self, shape: Shape) -> None:
        c, h, w = image_shape(type(self).__name__, shape)
        if w % 2:
            raise ShapeError(f"Checkerboard: expected an even width, got shape {shape}")
        super().__init__(shape, (2 * c, h, w // 2))

    def _forward(self, x: Tensor, context: Tensor | None) -> tuple[Tensor, Tensor]:
        pairs = _alternated(x.unflatten(3, (-1, 2)))
        return torch.cat(pairs.unbind(4), dim=1), constant_log_det(x, 0.0)

    def _inverse(self, z: Tensor, context: Tensor | None) -> tuple[Tensor, Tensor]:
        pairs = _alternated(torch.stack(z.chunk(2, dim=1), dim=4))
        return pairs.flatten(3), constant_log_det(z, 0.0)


def _alternated(pairs: Tensor) -> Tensor:
    """Exchange the two of each pair, (B, C, H, W/2, 2), in every other row."""
    odd = torch.arange(pairs.shape[2], device=pairs.device) % 2 == 1
    return torch.where(odd[:, None, None], pairs.flip(4), pairs)


class Flatten(Invertible):
    """Flattening (C, H, W) -> (C·H·W,), log_det = 0.

    Args:
        shape: any shape.
        channels_last: position-major order, so that the first C entries are all channels of
            position (0, 0): after a DCT the C constant terms.
    """

    def __init__(self, shape: Shape, channels_last: bool = False) -> None:
        super().__init__(shape, (int(torch.Size(shape).numel()),))
        self.channels_last = channels_last

    def _forward(self, x: Tensor, context: Tensor | None) -> tuple[Tensor, Tensor]:
        moved = x.movedim(1, -1) if self.channels_last else x
        return moved.reshape(x.shape[0], *self.out_shape), constant_log_det(x, 0.0)

    def _inverse(self, z: Tensor, context: Tensor | None) -> tuple[Tensor, Tensor]:
        channels, *rest = self.in_shape
        if self.channels_last:
            x = z.reshape(z.shape[0], *rest, channels).movedim(-1, 1)
        else:
            x = z.reshape(z.shape[0], *self.in_shape)
        if x.dim() == 4 and keeps_channels_last(x):
            x = x.contiguous(memory_format=torch.channels_last)
        return x, constant_log_det(z, 0.0)


def random_rotation(size: int, generator: torch.Generator) -> Tensor:
    """Draw a Haar-distributed matrix of SO(size), float64: QR of a Gaussian, signs put right."""
    gaussian = torch.randn(size, size, dtype=torch.float64, generator=generator)
    q, r = torch.linalg.qr(gaussian)
    q = q * r.diagonal().sign()
    q[:, 0] *= torch.linalg.det(q).sign()
    return q


def image_shape(name: str, shape: Shape) -> tuple[int, int, int]:
    """Return an image shape (C, H, W) as it is.

    Raises:
        ShapeError: another number of dimensions; the message names the map.
    """
    if len(shape) != 3:
        raise ShapeError(f"{name}: expected an image shape (C, H, W), got {tuple(shape)}")
    return shape[0], shape[1], shape[2]
