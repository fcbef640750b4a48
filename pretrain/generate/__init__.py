"""Any-to-any sampling from a pretrained model."""
