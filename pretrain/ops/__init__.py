"""Numerical building blocks, each with a plain reference beside it."""
