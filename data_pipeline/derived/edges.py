"""Edges, black on white paper (`image.edges`)."""

from data_pipeline.image import edges as derive

__all__ = ["derive"]
