"""Muon, for the weights that a BatchNorm follows."""

import torch
from torch import Tensor, nn
from torch.optim.optimizer import ParamsT

__all__ = ["Muon", "normalised_weights", "orthogonalised"]

# Odd quintic whose iterates take singular values in (0, 1] to about 1 (Jordan et al., 2024).
QUINTIC, QUINTIC_STEPS = (3.4445, -4.7750, 2.0315), 3


class Muon(torch.optim.AdamW):
    """AdamW, but for groups with `orthogonal` set: there steps are orthogonalised momentum.

        m ← μ m + g,   W ← √rows · W/‖W‖ - lr · orthogonal(g + μ m)

    for W (rows, …) flattened to a matrix, whose norm must not matter to the network: a BatchNorm
    follows. The rescaling keeps the angle of a step the same however large gradients are. Jordan et
    al., "Muon: an optimizer for hidden layers in neural networks", 2024. `torch.optim.Muon` takes
    matrices only, and does not rescale.
    """

    def __init__(self, groups: ParamsT) -> None:
        super().__init__(groups, fused=True)

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """Update all parameters; the gradients of orthogonal groups are used up."""
        for group in self.param_groups:
            if group.get("orthogonal"):
                for weight in group["params"]:
                    self._turn(weight, group["lr"], group["betas"][0])
        super().step()

    def _turn(self, weight: nn.Parameter, lr: float, momentum: float) -> None:
        if weight.grad is None:
            return
        state = self.state[weight]
        if not state:
            # AdamW, which shares the state, expects a count in all of it.
            state |= {"step": torch.zeros(()), "exp_avg": torch.zeros_like(weight)}
        average = state["exp_avg"].mul_(momentum).add_(weight.grad)
        direction = orthogonalised(weight.grad.add(average, alpha=momentum).flatten(1))
        weight.mul_(len(weight) ** 0.5 / weight.norm())
        weight.sub_(direction.view_as(weight), alpha=lr)
        # AdamW passes over parameters without a gradient.
        weight.grad = None


def orthogonalised(matrix: Tensor) -> Tensor:
    """Return about U Vᵀ of a matrix U S Vᵀ: its singular values become 0.7 to 1.2."""
    a, b, c = QUINTIC
    tall = matrix.shape[0] > matrix.shape[1]
    x = matrix.T if tall else matrix
    x = x / (x.norm() + 1e-7)
    for _ in range(QUINTIC_STEPS):
        gram = x @ x.T
        x = a * x + (b * gram + c * gram @ gram) @ x
    return x.T if tall else x


def normalised_weights(network: nn.Module) -> list[nn.Parameter]:
    """Return the weights of linear layers and convolutions that a BatchNorm follows.

    Directly, or behind a pooling by the maximum, which a factor passes through.
    """
    chains = [list(m) for m in network.modules() if isinstance(m, nn.Sequential)]
    found: list[nn.Parameter] = []
    for chain in chains:
        layers = [layer for layer in chain if not isinstance(layer, nn.MaxPool2d)]
        for layer, after in zip(layers, layers[1:], strict=False):
            linear = isinstance(layer, nn.Linear | nn.modules.conv._ConvNd)
            if linear and isinstance(after, nn.modules.batchnorm._BatchNorm):
                assert isinstance(layer.weight, nn.Parameter)
                found += [layer.weight] * layer.weight.requires_grad
    return found
