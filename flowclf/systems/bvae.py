"""BVAE: a VAE whose latents also feed a classifier that teaches them.

Salah and Yevick: "Branched variational autoencoder classifiers", 2024 (arXiv 2401.02526): α on the
reconstruction (objective.rec), λ on the branch (objective.branch), 1 on the KL; so it is a β-VAE of
β = 1/α with a label branch of weight λ/α. Fixed outputs (objective.target) are those of Yevick,
2022 (arXiv 2206.13388). Sums over pixels, means over samples; α = 1 and λ = 100 are ours, the paper
was read second-hand.
"""

from flowclf.systems.vae import AutoencodingObjective, VaeSettings, build_vae

__all__ = ["BvaeSettings", "build_bvae"]


class BvaeSettings(VaeSettings):
    """Settings of a BVAE."""

    objective: AutoencodingObjective = AutoencodingObjective(branch=100.0)


build_bvae = build_vae
