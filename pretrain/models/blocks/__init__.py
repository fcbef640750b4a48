"""Blocks: what a stack repeats, put together from branches, one file each."""

from pretrain.models.blocks.attention import CrossAttention, SelfAttention
from pretrain.models.blocks.base import Config
from pretrain.models.blocks.mlp import Mlp

ENCODER = {"attn": SelfAttention, "mlp": Mlp}
MLP = {"mlp": Mlp}  # each token alone
DECODER = {"attn": SelfAttention, "cross_attn": CrossAttention, "mlp": Mlp}
__all__ = ["DECODER", "ENCODER", "MLP", "Config"]
