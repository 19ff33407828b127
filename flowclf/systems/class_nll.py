"""Class-NLL: the same flow and mixture, trained as a conditional density estimator.

IB-INN's comparison (Ardizzone et al., NeurIPS 2020, Sec. 4), its case of β = 1 but for a constant.
Regularised: frozen, spread means, on a sphere of radius √D as the text has it (mixture.start=sphere
mixture.means=frozen) or a distance apart as the code has it (mixture.distance=10
mixture.means=frozen; 5, 10, 18 on CIFAR-10, and 55.4).
"""

from torch import Tensor

from couplings.functional import MixtureDensities
from flowclf.nn.encoders import Encoding
from flowclf.objectives import Batch, class_nll_loss
from flowclf.systems.assemble import Blueprint, InvertibleSettings, invertible_parts
from flowclf.systems.ib_inn import IBInn

__all__ = ["ClassNll", "build_class_nll"]


class ClassNll(IBInn):
    """Invertible encoder, latent mixture, and -log q(x|y)."""

    def objective(
        self, encoding: Encoding, densities: MixtureDensities, batch: Batch
    ) -> dict[str, Tensor]:
        """Compute `rate_per_dim` -log q(x|y)/d, unlabelled -log q(x)/d, and its double, `total`."""
        assert encoding.log_det is not None
        given_class = densities.log_prob_given_class + encoding.log_det[:, None]
        nll = class_nll_loss(given_class, densities.log_prob + encoding.log_det, batch.y)
        rate = nll / self.dims
        return {"rate_per_dim": rate, "total": 2 * rate}

    @property
    def term_weights(self) -> tuple[float, float]:
        """Weights of a rate that counts double, and of a cross-entropy at β̃ = 1 beside it."""
        return 2.0, 2.0


def build_class_nll(blueprint: Blueprint, settings: InvertibleSettings) -> ClassNll:
    """Build an untrained class-NLL flow."""
    return ClassNll(blueprint.shape, *invertible_parts(blueprint, settings), settings)
