"""Layers, stacked blocks, token embeddings and the networks built of them."""
