"""Softmax over the training samples, of VAE-AS, and its large last layer in little memory."""

from collections.abc import Iterator
from itertools import pairwise
from math import inf
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn.functional import pad
from torch.nn.utils import skip_init

from couplings.conditioners import kaiming_linear
from couplings.ops.dispatch import full_precision, widen
from flowclf.support.errors import UserError

__all__ = ["Coding", "IdentitySoftmax", "linear_cross_entropy", "sampled_cross_entropy"]

Coding = Literal["mixed-radix", "random"]

CHUNK = 4096


class IdentitySoftmax(nn.Module):
    """Softmax s(i|z) over the N training samples: the probability that z encodes sample i.

    The sample's index is written as a code of K tags with V values each, and each tag has a softmax
    on shared features f(z), so that the last layer has K·V rows:

        log s(i|z) = Σ_t log s_t(code_t(i)|z),   s_t = softmax(W_t f(z) + b_t)

    s starts uniform. Trained by its cross-entropy SC, it bounds the encoder's information from
    below: log_count - SC <= I(z; code) <= I(z; x). With one tag, distinct codes and no hidden layer
    it can represent the exact posterior q(i|z) of diagonal Gaussians q(z|x_i).

    With `negatives` a training step estimates its norm from so many samples, drawn anew, of which
    `sampled_cross_entropy` says how; in eval mode it is exact.

    Args:
        samples, dims: N and D.
        hidden: widths of the ReLU layers of f; without any, f(z) = [z, z²].
        tags: K.
        values: V; None for the least V with V^K >= N.
        coding: mixed-radix: the K digits of i in base V; random: K uniform draws per sample, so
            that samples may share a code.
        negatives: of one tag, how many values a training step draws; None: all.
        generator: source of weights and random codes.

    `codes` are (N, K) integers, `log_count` is the entropy of the code of a uniformly drawn sample,
    nats: log N if codes are distinct.

    Raises:
        UserError: a count below 1, fewer than N mixed-radix codes, or negatives of several tags.
    """

    codes: Tensor

    def __init__(
        self,
        samples: int,
        dims: int,
        hidden: tuple[int, ...] = (500, 500),
        *,
        tags: int = 1,
        values: int | None = None,
        coding: Coding = "mixed-radix",
        negatives: int | None = None,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        if negatives is not None and tags > 1:
            raise UserError(f"expected negatives of one tag, got {negatives} and {tags} tags")
        if min(samples, tags, 1 if values is None else values) < 1:
            raise UserError(
                f"expected at least one sample, tag and value, got {samples}, {tags} and {values}"
            )
        generator = generator or torch.Generator().manual_seed(0)
        self.samples, self.tags = samples, tags
        self.values = values or _least_base(samples, tags)
        self.coding: Coding = coding
        self.negatives = negatives
        self.hidden = nn.Sequential()
        for before, after in pairwise((dims, *hidden)):
            self.hidden.extend([kaiming_linear(before, after, generator), nn.ReLU()])
        features = hidden[-1] if hidden else 2 * dims
        self.last = skip_init(nn.Linear, features, tags * self.values)
        nn.init.zeros_(self.last.weight)
        nn.init.zeros_(self.last.bias)
        self.register_buffer("codes", self._draw_codes(generator))
        self.log_count = _code_entropy(self.codes)

    def forward(
        self, z: Tensor, index: Tensor, generator: torch.Generator | None = None
    ) -> tuple[Tensor, Tensor]:
        """Return -log s(index|z) and Σ_t H(s_t(·|z)) of z (B, D), index (B,): (B,) each, nats.

        `generator` draws the negatives of a training step.
        """
        features = self.hidden(z) if len(self.hidden) else torch.cat((z, z.square()), 1)
        code = self.codes[index]
        if self.tags == 1:
            layer = features, self.last.weight, self.last.bias, code[:, 0]
            if self.training and self.negatives and self.negatives < self.values:
                order = torch.randperm(self.values, generator=generator, device=z.device)
                return sampled_cross_entropy(*layer, order[: self.negatives])
            return linear_cross_entropy(*layer)
        logits = widen(self.last(features))
        log_s = logits.unflatten(1, (self.tags, self.values)).log_softmax(2)
        own = log_s.gather(2, code[..., None])
        return -own.sum((1, 2)), -(log_s.exp() * log_s).sum((1, 2))

    def frozen(
        self, z: Tensor, index: Tensor, generator: torch.Generator | None = None
    ) -> tuple[Tensor, Tensor]:
        """Return the same without gradients for the softmax's own parameters."""
        parameters = {name: value.detach() for name, value in self.named_parameters()}
        inputs = z, index, generator
        out: tuple[Tensor, Tensor] = torch.func.functional_call(self, parameters, inputs)
        return out

    def _draw_codes(self, generator: torch.Generator) -> Tensor:
        """Return the codes, (N, K)."""
        size = (self.samples, self.tags)
        if self.coding == "random":
            return torch.randint(self.values, size, generator=generator)
        if self.values**self.tags < self.samples:
            raise UserError(
                f"expected values^tags >= {self.samples}, the number of samples, got "
                f"{self.values}^{self.tags}; raise either, or let samples share codes: "
                "coding=random"
            )
        codes, rest = torch.empty(size, dtype=torch.int64), torch.arange(self.samples)
        for tag in range(self.tags):
            codes[:, tag], rest = rest % self.values, rest // self.values
        return codes

    def _load_from_state_dict(self, *args: Any, **options: Any) -> None:
        super()._load_from_state_dict(*args, **options)
        self.log_count = _code_entropy(self.codes)

    def extra_repr(self) -> str:
        """Return the sizes for `print(softmax)`."""
        return f"samples={self.samples}, tags={self.tags}, values={self.values}"


def _least_base(samples: int, tags: int) -> int:
    """Return the least V with V^tags >= samples; the floating-point root may be off by one."""
    base = max(1, round(samples ** (1 / tags)) - 1)
    while base**tags < samples:
        base += 1
    return base


def _code_entropy(codes: Tensor) -> float:
    """Return the entropy of a random row, nats."""
    _, counts = codes.unique(dim=0, return_counts=True)
    return float(torch.special.entr(counts.double() / len(codes)).sum())


def linear_cross_entropy(
    h: Tensor, weight: Tensor, bias: Tensor, target: Tensor, chunk: int = CHUNK
) -> tuple[Tensor, Tensor]:
    """Return -log p_target and H(p) of p = softmax(h Wᵀ + b), (B,) each, nats.

    Logits are computed in blocks (B, chunk), and again in the backward pass: two blocks of memory
    beside the arguments h (B, F), W (N, F), b (N,), t (B,) and gradients, never (B, N). Once
    differentiable; in the dtype of the weights, also under autocast.
    """
    with full_precision(h):
        out: tuple[Tensor, Tensor] = _LinearCrossEntropy.apply(
            h.to(weight.dtype), weight, bias, target, chunk
        )
        return out


def sampled_cross_entropy(
    h: Tensor, weight: Tensor, bias: Tensor, target: Tensor, chosen: Tensor
) -> tuple[Tensor, Tensor]:
    """Estimate what `linear_cross_entropy` returns from some of the rows of W.

        Z ≈ exp l_t + (N - 1)/S' Σ_{j in chosen, j != t} exp l_j

    with the S' chosen rows that are not the target's. Of uniform draws without replacement the
    estimate of Z has the mean Z, and those of log Z and of the entropy are consistent; of all rows
    they are exact. Bengio and Senécal, 2003 (importance sampling of a softmax's norm).

    Args:
        h, weight, bias, target: features (B, F), W (N, F), b (N,), rows (B,).
        chosen: distinct rows, (S,), the same for the whole batch.
    """
    with full_precision(h):
        # Gathered at once, so that their gradient is made once.
        rows, parts = torch.cat((target, chosen)), (len(target), len(chosen))
        rows_of_target, rows_of_chosen = weight.index_select(0, rows).split(parts)
        bias_of_target, bias_of_chosen = bias.index_select(0, rows).split(parts)
        h = h.to(weight.dtype)
        own = (h * rows_of_target).sum(1) + bias_of_target
        logits = torch.addmm(bias_of_chosen, h, rows_of_chosen.T)
        hit = chosen == target[:, None]
        others = (len(chosen) - hit.sum(1, keepdim=True)).clamp_min(1).to(logits.dtype)
        log_times = torch.where(hit, -inf, ((len(weight) - 1) / others).log())
        everything = torch.cat((own[:, None], logits), 1)
        weighed = everything + pad(log_times, (1, 0))
        log_norm = weighed.logsumexp(1)
        return log_norm - own, log_norm - ((weighed - log_norm[:, None]).exp() * everything).sum(1)


class _LinearCrossEntropy(torch.autograd.Function):
    """Autograd of logits l: d(-log p_t)/dl = p - onehot(t) and dH/dl = -p (log p + H)."""

    @staticmethod
    def forward(
        ctx: Any, h: Tensor, weight: Tensor, bias: Tensor, target: Tensor, chunk: int
    ) -> tuple[Tensor, Tensor]:
        blocks = [_summary(logits) for _, logits in _blocks(h, weight, bias, chunk)]
        log_norms, entropies = (torch.stack(parts) for parts in zip(*blocks, strict=True))
        log_norm = log_norms.logsumexp(0)
        own = (h * weight[target]).sum(1) + bias[target]
        # Chain rule: H = Σ_c π_c (H_c - log π_c) of blocks with probabilities π_c.
        log_share = log_norms - log_norm
        entropy = (log_share.exp() * (entropies - log_share)).sum(0)
        ctx.save_for_backward(h, weight, bias, target, log_norm, entropy)
        ctx.set_materialize_grads(False)
        ctx.chunk = chunk
        return log_norm - own, entropy

    @staticmethod
    @once_differentiable
    def backward(
        ctx: Any, grad: Tensor | None, grad_entropy: Tensor | None
    ) -> tuple[Tensor | None, ...]:
        h, weight, bias, target, log_norm, entropy = ctx.saved_tensors
        grad = torch.zeros_like(log_norm) if grad is None else grad
        sums = [
            torch.zeros_like(tensor) if needed else None
            for tensor, needed in zip((h, weight, bias), ctx.needs_input_grad, strict=False)
        ]
        grad_h, grad_weight, grad_bias = sums
        rows = torch.arange(len(h), device=h.device)
        for part, logits in _blocks(h, weight, bias, ctx.chunk):
            log_p = logits.sub_(log_norm[:, None])
            slope = _slope(log_p, grad, grad_entropy, entropy)
            place = target - part.start
            inside = (place >= 0) & (place < slope.shape[1])
            slope[rows, place.clamp(0, slope.shape[1] - 1)] -= grad * inside
            if grad_h is not None:
                grad_h.addmm_(slope, weight[part])
            if grad_weight is not None:
                torch.mm(slope.T, h, out=grad_weight[part])
            if grad_bias is not None:
                torch.sum(slope, 0, out=grad_bias[part])
        return *sums, None, None


def _blocks(h: Tensor, weight: Tensor, bias: Tensor, chunk: int) -> Iterator[tuple[slice, Tensor]]:
    """Iterate over rows of W and their logits (B, chunk), each block overwriting the last."""
    buffer = h.new_empty(len(h), min(chunk, len(weight)))
    for start in range(0, len(weight), chunk):
        part = slice(start, min(start + chunk, len(weight)))
        logits = buffer[:, : part.stop - part.start]
        yield part, torch.addmm(bias[part], h, weight[part].T, out=logits)


def _summary(logits: Tensor) -> tuple[Tensor, Tensor]:
    """Return log Σ exp and the softmax's entropy of one block, (B,) each; overwrite the block."""
    log_norm = logits.logsumexp(1)
    log_p = logits.sub_(log_norm[:, None])
    return log_norm, -log_p.exp().mul_(log_p).sum(1)


def _slope(log_p: Tensor, grad: Tensor, grad_entropy: Tensor | None, entropy: Tensor) -> Tensor:
    """Return upstream gradients times p and -p (log p + H), (B, chunk); overwrite log p."""
    if grad_entropy is None:
        return log_p.exp_().mul_(grad[:, None])
    p = log_p.exp()
    return log_p.add_(entropy[:, None]).mul_(-grad_entropy[:, None]).add_(grad[:, None]).mul_(p)
