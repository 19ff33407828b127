"""The latent space: mixtures of Gaussians or von Mises-Fisher densities, a component a class."""
