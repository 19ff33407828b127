"""Networks between data, latents and labels, with weights drawn from a generator."""
