"""Pictures: each a function from results or tensors to a matplotlib Figure."""

from flowclf.figures.images import image_grid, interpolation_figure, sample_figure
from flowclf.figures.latent import latent_figure, latent_panels, plane_of_means
from flowclf.figures.style import save_figure

__all__ = [
    "image_grid",
    "interpolation_figure",
    "latent_figure",
    "latent_panels",
    "plane_of_means",
    "sample_figure",
    "save_figure",
]
