"""Tokenloom's trainer: one transformer over many tokenized modalities, in JAX."""
