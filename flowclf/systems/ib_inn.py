"""IB-INN: an invertible encoder trained on the exact information bottleneck.

Ardizzone, Mackowiak, Rother, Köthe: "Training Normalizing Flows with the Information Bottleneck for
Competitive Generative Classification", NeurIPS 2020.
"""

from math import log, pi
from typing import Annotated, Self

import torch
from pydantic import Field
from torch import Tensor

from couplings.functional import MixtureDensities
from flowclf.classifier import GenerativeClassifier
from flowclf.latent.beta_conditioned import TradeOff
from flowclf.nn.encoders import Encoding
from flowclf.objectives import Batch, cross_entropy, ib_weights, trade_off
from flowclf.settings import Fraction, Section
from flowclf.support.errors import UserError
from flowclf.systems.assemble import Blueprint, InvertibleSettings, invertible_parts

__all__ = ["ConditionedIBInn", "IBInn", "IBInnSettings", "build_ib_inn"]


class ObjectiveSettings(Section):
    """Weights of the information bottleneck."""

    beta: Annotated[float, Field(ge=0)] = 1.0  # β̃ of Eq. 14; 0: only L_X, .inf: only L_Y
    betas: tuple[float, float] = (0.02, 50.0)  # trained at once where network.condition=beta
    label_smoothing: Fraction = 0.0


class IBInnSettings(InvertibleSettings):
    """Settings of an IB-INN."""

    objective: ObjectiveSettings = ObjectiveSettings()


class IBInn(GenerativeClassifier):
    """Invertible encoder, latent mixture, and L_X/d - β̃ L_Y."""

    settings: IBInnSettings
    accepts_unlabelled = True  # they enter L_X alone
    learn_weights = False  # the authors let the class weights learn from the rate alone

    def objective(
        self, encoding: Encoding, densities: MixtureDensities, batch: Batch
    ) -> dict[str, Tensor]:
        """Compute `rate_per_dim`, `decision` and `total` of Eq. 14, nats."""
        assert encoding.log_det is not None
        rate = -(densities.log_prob + encoding.log_det).mean() / self.dims
        smoothing = self.settings.objective.label_smoothing
        decision = cross_entropy(densities.log_posterior, batch.y, smoothing)
        return trade_off(rate, decision, self.beta)

    @property
    def beta(self) -> float:
        """β̃ of the loss."""
        return self.settings.objective.beta

    @property
    def term_weights(self) -> tuple[float, float]:
        """Weights of Eq. 14."""
        return ib_weights(self.beta)

    def paper_rate_per_dim(self, x: Tensor, log_prob: Tensor | None = None) -> Tensor:
        """Compute L_X/d of the authors' code, (B,): standardised units, no (d/2) log 2π.

        Their number only: not a likelihood of the data. True bits/dim come from `log_prob`, which
        may be handed in where it is known, to save encoding x again.
        """
        x = self._points(x)
        _, log_det_preprocess = self.encoder.preprocess(x)
        log_prob = self.log_prob(x) if log_prob is None else log_prob
        return -(log_prob - log_det_preprocess) / self.dims - 0.5 * log(2 * pi)

    def extra_rates(self, x: Tensor, log_prob: Tensor | None = None) -> dict[str, Tensor]:
        """Compute the authors' own rate, see `paper_rate_per_dim`."""
        return {"paper_rate_per_dim_nats": self.paper_rate_per_dim(x, log_prob)}


class ConditionedIBInn(IBInn):
    """One IB-INN for every β̃ in a range: its couplings and class means see log β̃.

    Each training step draws a β̃, log-uniform; in eval mode it is at objective.beta, or where
    `move_to` went. None of the papers has it.
    """

    def __init__(self, trade_off: TradeOff, blueprint: Blueprint, settings: IBInnSettings) -> None:
        parts = invertible_parts(blueprint, settings, trade_off)
        super().__init__(blueprint.shape, *parts, settings)
        self.trade_off = trade_off

    @property
    def beta(self) -> float:
        """Current β̃."""
        return float(self.trade_off.beta)

    def move_to(self, beta: float) -> None:
        """Move to another β̃ for evaluation.

        Raises:
            UserError: β̃ outside the range that was trained.
        """
        self.trade_off.move(beta)
        # What is saved now is at this β̃, too, and was not measured there.
        if self.info is not None and beta != self.settings.objective.beta:
            self.info = self.info.model_copy(update={"metrics": {}})
        objective = self.settings.objective.model_copy(update={"beta": beta})
        self.settings = self.settings.model_copy(update={"objective": objective})

    def train(self, mode: bool = True) -> Self:
        """Set the mode; eval mode goes back to the β̃ of the evaluation."""
        if not mode:
            self.trade_off.move(self.settings.objective.beta)
        return super().train(mode)

    def loss(
        self,
        x: Tensor,
        y: Tensor,
        generator: torch.Generator | None = None,
        index: Tensor | None = None,
        guess: Tensor | None = None,
    ) -> dict[str, Tensor]:
        """Compute the loss, in training at a random β̃; see `GenerativeClassifier.loss`."""
        if self.training:
            self.trade_off.draw(generator)
        return super().loss(x, y, generator, index, guess)


def build_ib_inn(blueprint: Blueprint, settings: IBInnSettings) -> IBInn:
    """Build an untrained IB-INN.

    Raises:
        UserError: network.condition with BatchNorm, or with the paper's network.
    """
    if settings.network.condition is None:
        return IBInn(blueprint.shape, *invertible_parts(blueprint, settings), settings)
    if getattr(settings.network, "batch_norm", True):
        raise UserError(
            "network.condition=beta expects network.kind conv or mlp and network.batch_norm=false: "
            "the statistics of all β̃ together are those of none"
        )
    objective = settings.objective
    return ConditionedIBInn(TradeOff(*objective.betas, objective.beta), blueprint, settings)
