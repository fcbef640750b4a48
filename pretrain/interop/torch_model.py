"""Tokenloom's encoder-decoder in plain PyTorch: this file, `config.json` and `model.safetensors` are all it takes.

    model = load("EXPORT_DIR")
    x = model.encode(ids, modality, position, valid)          # each [B, N] -> [B, N, D]
    z = model.embed(x, (ids, modality, position, valid), "caption")   # [B, embed_dim], unit length
    y = model.decode(x, (ids, modality, position, valid), queries)   # queries: the same four, [B, M] -> [B, M, D]
    logits = model.logits(y, "text")                          # [B, M, V]

`modality` is the index into config["modalities"]; `position` the raster index on a grid, the running index in a
sequence; `valid` is False for empty slots.
"""

import json
import math
import os

import torch
import torch.nn.functional as F
from torch import nn


class LayerNorm(nn.Module):
    def __init__(self, dim, bias):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(dim))
        self.bias = nn.Parameter(torch.zeros(dim)) if bias else None

    def forward(self, x):
        return F.layer_norm(x, self.weight.shape, self.weight, self.bias, eps=1e-6)


class Attention(nn.Module):
    def __init__(self, dim, heads, cross, bias):
        super().__init__()
        self.heads = heads
        if cross:
            self.q, self.kv = nn.Linear(dim, dim, bias=bias), nn.Linear(dim, 2 * dim, bias=bias)
        else:
            self.qkv = nn.Linear(dim, 3 * dim, bias=bias)
        self.proj = nn.Linear(dim, dim, bias=bias)

    def forward(self, x, mask, context=None):
        q, k, v = self.qkv(x).chunk(3, -1) if context is None else (self.q(x), *self.kv(context).chunk(2, -1))
        q, k, v = (a.unflatten(-1, (self.heads, -1)).transpose(1, 2) for a in (q, k, v))
        scores = q @ k.transpose(-2, -1) / math.sqrt(q.shape[-1])
        # The most negative finite number, not -inf: a row that may look nowhere becomes uniform, never NaN.
        weights = scores.masked_fill(~mask, torch.finfo(scores.dtype).min).softmax(-1)
        return self.proj((weights @ v).transpose(1, 2).flatten(2))


class Mlp(nn.Module):
    def __init__(self, dim, ratio, gated, bias):
        super().__init__()
        hidden = int(ratio * dim * 2 / 3) if gated else int(ratio * dim)
        self.fc1, self.fc2 = nn.Linear(dim, hidden, bias=bias), nn.Linear(hidden, dim, bias=bias)
        self.fc3 = nn.Linear(dim, hidden, bias=bias) if gated else None

    def forward(self, x):
        return self.fc2(F.gelu(self.fc1(x)) if self.fc3 is None else F.silu(self.fc1(x)) * self.fc3(x))


class EncoderBlock(nn.Module):
    def __init__(self, dim, heads, ratio, gated, bias):
        super().__init__()
        self.norm1, self.norm2 = LayerNorm(dim, bias), LayerNorm(dim, bias)
        self.attn, self.mlp = Attention(dim, heads, False, bias), Mlp(dim, ratio, gated, bias)

    def forward(self, x, mask):
        x = x + self.attn(self.norm1(x), mask)
        return x + self.mlp(self.norm2(x))


class DecoderBlock(nn.Module):
    def __init__(self, dim, heads, ratio, gated, bias):
        super().__init__()
        for norm in ("norm1", "query_norm", "context_norm", "norm2"):
            setattr(self, norm, LayerNorm(dim, bias))
        self.self_attn, self.cross_attn = Attention(dim, heads, False, bias), Attention(dim, heads, True, bias)
        self.mlp = Mlp(dim, ratio, gated, bias)

    def forward(self, x, context, self_mask, cross_mask):
        x = x + self.self_attn(self.norm1(x), self_mask)
        x = x + self.cross_attn(self.query_norm(x), cross_mask, self.context_norm(context))
        return x + self.mlp(self.norm2(x))


class EncDec(nn.Module):
    def __init__(self, config):
        super().__init__()
        c, mods = config["model"], config["modalities"]
        dim, args = c["dim"], (c["dim"], c["heads"], c["mlp_ratio"], c["gated"], c["bias"])
        self.config = config
        self.vocabs = list(dict.fromkeys(m["vocab"] for m in mods))
        sizes = {m["vocab"]: m["vocab_size"] for m in mods}
        self.tables = nn.ParameterDict({v: nn.Parameter(torch.zeros(sizes[v], dim)) for v in self.vocabs})
        self.modality = nn.Parameter(torch.zeros(len(mods), dim))
        self.mask_token = nn.Parameter(torch.zeros(dim))
        self.encoder = nn.ModuleList(EncoderBlock(*args) for _ in range(c["encoder_depth"]))
        self.decoder = nn.ModuleList(DecoderBlock(*args) for _ in range(c["decoder_depth"]))
        self.encoder_norm, self.decoder_norm = LayerNorm(dim, c["bias"]), LayerNorm(dim, c["bias"])
        self.context = nn.Linear(dim, dim)
        probes = c["probes"] if config["embedded"] else 0
        self.probes = nn.Parameter(torch.zeros(probes, dim)) if probes else None
        pooled = max(probes, 1) * dim
        self.project = nn.ModuleDict({m: nn.Linear(pooled, c["embed_dim"], bias=False) for m in config["embedded"]})
        self.register_buffer("vocab_of", torch.tensor([self.vocabs.index(m["vocab"]) for m in mods]), persistent=False)
        self.register_buffer("is_grid", torch.tensor([m["kind"] == "grid" for m in mods]), persistent=False)
        self.register_buffer("positions", position_tables(mods, dim, c["waves"]), persistent=False)

    def place(self, modality, position):
        return self.positions[modality, position] + self.modality[modality]

    def content(self, ids, modality):
        rows = torch.zeros(*ids.shape, self.mask_token.shape[0], device=ids.device)
        for i, v in enumerate(self.vocabs):
            own = self.vocab_of[modality] == i
            rows[own] = self.tables[v][ids[own]]
        return rows

    def encode(self, ids, modality, position, valid):
        x = (self.content(ids, modality) + self.place(modality, position)) * valid[..., None]
        for block in self.encoder:
            x = block(x, valid[:, None, None, :])
        return self.encoder_norm(x)

    def embed(self, x, inputs, name):
        _, modality, position, valid = inputs
        valid = valid[:, None]
        if self.probes is None:
            weights = valid / valid.sum(-1, keepdim=True).clamp(min=1)
        else:
            scores = self.probes @ (x + self.place(modality, position)).transpose(1, 2)
            weights = scores.masked_fill(~valid, torch.finfo(scores.dtype).min).softmax(-1) * valid
        return F.normalize(self.project[name]((weights @ x).flatten(1)), dim=-1)

    def decode(self, x, inputs, queries):
        _, in_modality, in_position, in_valid = inputs
        ids, modality, position, valid = queries
        grid = self.is_grid[modality]
        start = torch.where(grid[..., None], self.mask_token, self.content(ids, modality))
        y = (start + self.place(modality, position)) * valid[..., None]
        context = self.context(x) + self.place(in_modality, in_position)
        # A modality's queries see their own modality only: grids all of it, sequences their past.
        same = modality[:, :, None] == modality[:, None, :]
        past = position[:, None, :] <= position[:, :, None]
        self_mask = (same & (past | grid[:, :, None]) & valid[:, None, :])[:, None]
        for block in self.decoder:
            y = block(y, context, self_mask, in_valid[:, None, None, :])
        return self.decoder_norm(y)

    def logits(self, y, vocab):
        return y @ self.tables[vocab].T


def position_tables(mods, dim, waves):
    """[modalities, longest, D]: 2-D sine-cosine on grids, 1-D on sequences (and on what masking makes of them)."""

    def sincos(position, dim):
        omega = (waves[1] / waves[0]) ** (-torch.arange(dim // 2, dtype=torch.float64) / (dim / 2)) / waves[0]
        angle = position[:, None] * omega
        return torch.cat([angle.sin(), angle.cos()], 1)

    tables = []
    for m in mods:
        if m["kind"] == "grid":
            at = torch.arange(math.prod(m["shape"]))
            tables.append(torch.cat([sincos(at // m["shape"][1], dim // 2), sincos(at % m["shape"][1], dim // 2)], 1))
        else:
            tables.append(sincos(torch.arange(2 * m["shape"][0] + 2), dim))
    return nn.utils.rnn.pad_sequence(tables, batch_first=True).float()


def load(folder):
    """The model of an export folder, in eval mode; every weight of the file is used and none is missing."""
    from safetensors.torch import load_file

    with open(os.path.join(folder, "config.json"), encoding="utf8") as f:
        model = EncDec(json.load(f))
    model.load_state_dict(load_file(os.path.join(folder, "model.safetensors")), strict=True)
    return model.eval()
