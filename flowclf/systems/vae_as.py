"""VAE-AS: the rate of a VAE in two parts, by a softmax that identifies samples by their latents.

Li: "Improve variational autoencoder with auxiliary softmax multiclassifier", 2019. On average
KL(q(z|x) ‖ p(z)) is I(z; x) + KL(q(z) ‖ p(z)); here each has a weight of its own. The softmax
s(i|z) learns from the sample's number alone, the encoder from s as it stands. With mi = md it is
the VAE, whatever s.

objective.form: "bound" (SC form: below I, above the divergence, with their true gradients where s
is optimal) or "entropy" (the paper's own estimate of I, which bounds nothing).
"""

from typing import Literal

from torch import Tensor

from flowclf.nn.encoders import Encoding
from flowclf.nn.sample_softmax import IdentitySoftmax
from flowclf.objectives import Batch, auxiliary_softmax_terms
from flowclf.settings import Depth, Positive, Section, Weight, Widths
from flowclf.support import validate
from flowclf.support.collectives import all_reduce_mean
from flowclf.support.errors import UserError
from flowclf.support.seeding import generator_for
from flowclf.systems.assemble import Blueprint
from flowclf.systems.branched import AutoencoderSettings, BranchedAutoencoder, DecodingObjective

__all__ = ["VaeAs", "VaeAsSettings", "build_vae_as"]


class AuxiliaryObjective(DecodingObjective):
    """Weights of the two parts of the rate."""

    mi: Weight = 1.0  # on I(z; x); the paper's α
    md: Weight = 1.0  # on KL(q(z) ‖ p(z)); the paper's β
    form: Literal["bound", "entropy"] = "bound"


class IdentitySettings(Section):
    """Softmax over training samples: (z, hidden layers) to `tags` tags of `values` values."""

    hidden: Widths | tuple[()] = (500, 500)  # none: linear in z and z², the family of the optimum
    # One tag for each sample is the paper's; 4 of 16 values tell 65,536 samples apart.
    tags: Depth = 1
    values: Positive | None = None
    coding: Literal["mixed-radix", "random"] = "mixed-radix"
    # Of one tag: how many samples, drawn anew, estimate the norm of a training step; None: all do.
    negatives: Positive | None = None


class VaeAsSettings(AutoencoderSettings):
    """Settings of a VAE-AS."""

    latent: Positive | None = 40
    identity: IdentitySettings = IdentitySettings()
    objective: AuxiliaryObjective = AuxiliaryObjective()


class VaeAs(BranchedAutoencoder):
    """Autoencoder whose rate is α I(z; x) + β KL(q(z) ‖ p(z))."""

    settings: VaeAsSettings

    def rate(
        self, encoding: Encoding, kl: Tensor, batch: Batch
    ) -> tuple[dict[str, Tensor], Tensor]:
        """Compute `kl_nats`, `mi_nats`, `md_nats` and `identity` SC, by which s learns."""
        if batch.index is None:
            raise UserError(
                "expected the numbers of the samples for vae-as, got none; give index=…"
            )
        settings, softmax = self.settings.objective, self.heads["identity"]
        assert isinstance(softmax, IdentitySoftmax)
        index = validate.indices(
            "index", batch.index, "numbers", softmax.samples, kl,
            length=len(batch.x), training=self.training,
        )  # fmt: skip
        bound = settings.form == "bound"
        z = encoding.z.view_as(encoding.z)
        identity, entropy = (each.mean() for each in softmax(z, index, batch.generator))
        identity = all_reduce_mean(identity)
        learned = settings.md * kl + identity
        if not bound:
            entropy = softmax.frozen(encoding.z, index, batch.generator)[1].mean()
            learned = learned - settings.mi * entropy
        terms = auxiliary_softmax_terms(kl, identity, softmax.log_count, None if bound else entropy)
        # One pass for both who learn: s at the full rate, the encoder at what the terms count.
        share = settings.md - settings.mi * bound
        counts = identity <= softmax.log_count if bound else 1.0
        if z.requires_grad:
            z.register_hook(lambda slope: counts * share * slope)
        weighted = settings.mi * terms["mi_nats"] + settings.md * terms["md_nats"]
        # The gradients of `learned` and the value that the terms have.
        total = learned + (weighted + identity - learned).detach()
        return {"kl_nats": kl, **terms, "identity": identity}, total


def build_vae_as(blueprint: Blueprint, settings: VaeAsSettings) -> VaeAs:
    """Build an untrained VAE-AS.

    Raises:
        UserError: the number of training samples is not known.
    """
    if blueprint.samples is None:
        raise UserError("expected samples=N, the number of training samples, for vae-as")
    model = VaeAs.assemble(blueprint, settings)
    sizes, options = (blueprint.samples, model.mixture.dims), settings.identity.model_dump()
    generator = generator_for(blueprint.seed, "identity")
    model.heads["identity"] = IdentitySoftmax(*sizes, generator=generator, **options)
    return model
