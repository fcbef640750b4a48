"""Quantizers, a file each: `Config` and `Quantizer`."""
