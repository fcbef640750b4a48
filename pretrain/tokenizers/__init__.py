"""Learned tokenizers: quantizers and the autoencoders around them."""
