"""Derivatives as statistics of single samples: gradients by the weights, and the Jacobian."""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from couplings import Invertible
from flowclf.nn.hooks import noting

__all__ = ["MOST_JACOBIAN", "layer_gradients", "local_dimension"]

MOST_JACOBIAN = 256  # dimensions: a backward pass for each
ON_DATA = 0.1  # a direction is one of the data if it is so wide, relative to the widest
PART = 64  # samples whose gradients are held at once


def layer_gradients(
    model: nn.Module, log_prob: Callable[[Tensor], Tensor], x: Tensor
) -> Tensor | None:
    """Compute log ‖∇_W log q(x)‖ of each layer for each sample, (B, L), float64.

        ∇_W log q(x) = Σ_p g_p a_pᵀ,  over positions p, of the layer's input a and, at its output, g

    Layers are `Linear` and `Conv2d` (without groups) that map a batch to a batch. All weights'
    gradients come from the one backward by x, which computes none of them for the sum.

    Args:
        model: what `log_prob` calls, in eval mode, so that no sample sees another.
        log_prob: of points x to (B,).
        x: points, floating.

    Returns:
        None if there is no such layer.
    """
    norms: list[Tensor | None] = []
    found, here = [], x[:PART]

    def note(layer: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        if not output.requires_grad or len(output) != len(here):
            return
        place, seen = len(norms), inputs[0].detach()
        norms.append(None)

        def keep(gradient: Tensor) -> None:
            norms[place] = _weight_gradient(layer, seen, gradient.detach()).norm(dim=(1, 2))

        output.register_hook(keep)

    layers = (each for each in model.modules() if isinstance(each, nn.Linear) or _is_plain(each))
    with noting(layers, note), torch.enable_grad():
        for here in x.split(PART):
            norms.clear()
            at = here.detach().requires_grad_()
            torch.autograd.grad(log_prob(at).sum(), at)
            used = [norm for norm in norms if norm is not None]
            if not used:
                return None
            found.append(torch.stack(used, 1).double())
    return torch.cat(found).clamp_min(torch.finfo(torch.float64).tiny).log()


def local_dimension(network: Invertible, u: Tensor) -> Tensor | None:
    """Count the directions of the decoder that are of the data, for each sample: (B,), float64.

        #{i : σ_i(du/dz) >= 0.1 σ_1(du/dz)},  σ_i(du/dz) = 1 / σ_{D+1-i}(dz/du)

    u is in the network's units. Kamkari et al., "A geometric explanation of the likelihood OOD
    detection paradox", ICML 2024, with a threshold that is relative to the widest direction.

    Returns:
        None above `MOST_JACOBIAN` dimensions.
    """
    if u[0].numel() > MOST_JACOBIAN:
        return None
    with torch.enable_grad():
        at = u.detach().requires_grad_()
        z = network(at)[0].flatten(1)
        rows = [
            torch.autograd.grad(z[:, i].sum(), at, retain_graph=True)[0].flatten(1)
            for i in range(z.shape[1])
        ]
    inverse = torch.linalg.svdvals(torch.stack(rows, 1).double())
    return (inverse <= inverse[:, -1:] / ON_DATA).sum(1).double()


def _is_plain(layer: nn.Module) -> bool:
    return isinstance(layer, nn.Conv2d) and layer.groups == 1


def _weight_gradient(layer: nn.Module, seen: Tensor, gradient: Tensor) -> Tensor:
    """Return the gradient of a layer's weight for each sample, (B, outputs, inputs)."""
    if isinstance(layer, nn.Conv2d):
        assert not isinstance(layer.padding, str)
        columns = F.unfold(seen, layer.kernel_size, layer.dilation, layer.padding, layer.stride)
        return gradient.flatten(2) @ columns.mT
    rows = (each.reshape(len(each), -1, each.shape[-1]) for each in (gradient, seen))
    return torch.einsum("bpo,bpi->boi", *rows)
