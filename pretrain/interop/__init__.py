"""Weights in and out: PyTorch."""
