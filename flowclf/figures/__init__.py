"""Figures, each a function from results or tensors to a matplotlib Figure."""

from flowclf.figures.canonical_images import extracted_digits, extraction_figure
from flowclf.figures.curves import information_figure, learning_figure
from flowclf.figures.evaluation import reliability_figure, roc_figure, score_histograms
from flowclf.figures.explain import explain_figure
from flowclf.figures.images import (
    block_figure,
    image_grid,
    interpolation_figure,
    reconstructed,
    reconstruction_figure,
    sample_figure,
    temperature_figure,
)
from flowclf.figures.landscape import landscape_figure, loss_landscape
from flowclf.figures.latent import (
    embedded_latents,
    latent_figure,
    latent_panels,
    plane_of_means,
    principal_figure,
)
from flowclf.figures.run import class_samples
from flowclf.figures.similarity import similarity_figure
from flowclf.figures.style import save_figure
from flowclf.figures.trade_off import information_plane_figure, trade_off_figure
from flowclf.figures.trajectory import image_trajectory, rotation_trajectory, trajectory_figure
from flowclf.figures.walks import (
    ambiguous_walk,
    ambiguous_walk_figure,
    mean_walk_figure,
    mean_walks,
    model_interpolation_figure,
    model_interpolations,
    most_ambiguous,
)

__all__ = [
    "ambiguous_walk",
    "ambiguous_walk_figure",
    "block_figure",
    "class_samples",
    "embedded_latents",
    "explain_figure",
    "extracted_digits",
    "extraction_figure",
    "image_grid",
    "image_trajectory",
    "information_figure",
    "information_plane_figure",
    "interpolation_figure",
    "landscape_figure",
    "latent_figure",
    "learning_figure",
    "latent_panels",
    "loss_landscape",
    "mean_walk_figure",
    "mean_walks",
    "model_interpolation_figure",
    "model_interpolations",
    "most_ambiguous",
    "plane_of_means",
    "principal_figure",
    "reconstructed",
    "reconstruction_figure",
    "reliability_figure",
    "roc_figure",
    "rotation_trajectory",
    "sample_figure",
    "save_figure",
    "score_histograms",
    "similarity_figure",
    "temperature_figure",
    "trade_off_figure",
    "trajectory_figure",
]
