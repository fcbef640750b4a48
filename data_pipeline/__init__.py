"""Input pipeline: sources, transforms and text on NumPy and Grain; never imports jax."""
