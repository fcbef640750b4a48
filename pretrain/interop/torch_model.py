"""Tokenloom's encoder-decoder in plain PyTorch: this file, `config.json` and `model.safetensors` are all it takes.

`load` compares them with SHA256SUMS first; `load(folder, verify=False)` does not, for files of one's own.

    model = load("EXPORT_DIR")
    x = model.encode(ids, modality, position, valid)          # each [B, N] -> [B, N, D]
    z = model.embed(x, (ids, modality, position, valid), "caption")   # [B, embed_dim], unit length
    y = model.decode(x, (ids, modality, position, valid), queries)   # queries: the same four, [B, M] -> [B, M, D]
    logits = model.logits(y, "text")                          # [B, M, V]

    inputs, dense = model.tokens({"rgb": pixels})             # whole modalities; pixels uint8 [B, H, W, C]
    model.predict(model.encode(*inputs, dense), inputs, "classification")   # what a fine-tuned head says

`modality` is the index into config["modalities"]; `position` the raster index on a grid, the running index in a
sequence; `valid` is False for empty slots. Pixels and vectors go into `encode` as `dense`: {name: rows [B, L, width]},
normalised; `ids` then say which row. Registers come first in x: `embed` and `decode` expect them there.
"""

import hashlib
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
    def __init__(self, dim, heads, cross, bias, qk_norm, sloped):
        super().__init__()
        self.heads = heads
        self.slopes = nn.Parameter(torch.zeros(heads)) if sloped else None
        self.q_norm, self.k_norm = (LayerNorm(dim // heads, bias) if qk_norm else nn.Identity() for _ in "qk")
        if cross:
            self.q, self.kv = nn.Linear(dim, dim, bias=bias), nn.Linear(dim, 2 * dim, bias=bias)
        else:
            self.qkv = nn.Linear(dim, 3 * dim, bias=bias)
        self.proj = nn.Linear(dim, dim, bias=bias)

    def forward(self, x, mask, distance, context=None):
        q, k, v = self.qkv(x).chunk(3, -1) if context is None else (self.q(x), *self.kv(context).chunk(2, -1))
        q, k, v = (a.unflatten(-1, (self.heads, -1)).transpose(1, 2) for a in (q, k, v))
        q, k = self.q_norm(q), self.k_norm(k)
        scores = q @ k.transpose(-2, -1) / math.sqrt(q.shape[-1])
        if self.slopes is not None:
            scores = scores - self.slopes[:, None, None] * distance[:, None]
        # The most negative finite number, not -inf: a row that may look nowhere becomes uniform, never NaN.
        weights = scores.masked_fill(~mask, torch.finfo(scores.dtype).min).softmax(-1)
        return self.proj((weights @ v).transpose(1, 2).flatten(2))


class Mlp(nn.Module):
    def __init__(self, dim, ratio, gated, bias):
        super().__init__()
        hidden = int(ratio * dim * 2 / 3) if gated else round(ratio * dim)
        self.fc1, self.fc2 = nn.Linear(dim, hidden, bias=bias), nn.Linear(hidden, dim, bias=bias)
        self.fc3 = nn.Linear(dim, hidden, bias=bias) if gated else None

    def forward(self, x):
        return self.fc2(F.gelu(self.fc1(x)) if self.fc3 is None else F.silu(self.fc1(x)) * self.fc3(x))


class Adapter(nn.Module):
    def __init__(self, dim, width):
        super().__init__()
        self.down, self.up = nn.Linear(dim, width), nn.Linear(width, dim)

    def forward(self, x):
        return x + self.up(F.gelu(self.down(x), approximate="tanh"))


class SelfAttention(Attention):
    def __init__(self, dim, heads, bias, qk_norm, sloped):
        super().__init__(dim, heads, False, bias, qk_norm, sloped)
        self.norm = LayerNorm(dim, bias)

    def forward(self, x, mask, distance):
        return super().forward(self.norm(x), mask, distance)


class CrossAttention(Attention):
    def __init__(self, dim, heads, bias, qk_norm, sloped):
        super().__init__(dim, heads, True, bias, qk_norm, sloped)
        self.norm, self.context_norm = LayerNorm(dim, bias), LayerNorm(dim, bias)

    def forward(self, x, mask, distance, context):
        return super().forward(self.norm(x), mask, distance, self.context_norm(context))


class ResidualMlp(Mlp):
    def __init__(self, dim, ratio, gated, bias):
        super().__init__(dim, ratio, gated, bias)
        self.norm = LayerNorm(dim, bias)

    def forward(self, x):
        return super().forward(self.norm(x))


class EncoderBlock(nn.Module):
    def __init__(self, dim, heads, ratio, gated, bias, qk_norm, sloped, adapter):
        super().__init__()
        self.attn = SelfAttention(dim, heads, bias, qk_norm, sloped)
        self.mlp = ResidualMlp(dim, ratio, gated, bias)
        self.adapters = nn.ModuleDict({k: Adapter(dim, adapter) if adapter else nn.Identity() for k in ("attn", "mlp")})

    def forward(self, x, mask, distance):
        x = x + self.adapters["attn"](self.attn(x, mask, distance))
        return x + self.adapters["mlp"](self.mlp(x))


class DecoderBlock(nn.Module):
    def __init__(self, dim, heads, ratio, gated, bias, qk_norm, sloped):
        super().__init__()
        self.attn = SelfAttention(dim, heads, bias, qk_norm, sloped)
        self.cross_attn = CrossAttention(dim, heads, bias, qk_norm, sloped)
        self.mlp = ResidualMlp(dim, ratio, gated, bias)

    def forward(self, x, context, self_mask, cross_mask, self_distance, cross_distance):
        x = x + self.attn(x, self_mask, self_distance)
        x = x + self.cross_attn(x, cross_mask, cross_distance, context)
        return x + self.mlp(x)


class Classifier(nn.Linear):
    """A linear layer on the normalised mean of the outputs, or on what the queries pool of them."""

    def __init__(self, head, dim, queries):
        width = dim * (queries if head["pool"] == "queries" else 1)
        super().__init__(width, head["outputs"])
        self.head, self.norm = head, LayerNorm(width, True)

    def forward(self, x, placed, valid, queries):
        return super().forward(self.norm(pool(x, placed, valid, queries if self.head["pool"] == "queries" else None)))


class ConvNeXtBlock(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.depthwise, self.norm = nn.Conv2d(width, width, 7, padding=3, groups=width), LayerNorm(width, True)
        self.fc1, self.fc2 = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)
        self.scale = nn.Parameter(torch.zeros(width))

    def forward(self, x):
        y = self.norm(self.depthwise(x).permute(0, 2, 3, 1))
        return x + (self.scale * self.fc2(F.gelu(self.fc1(y)))).permute(0, 3, 1, 2)


class DenseHead(nn.Module):
    """ConvNeXt blocks on the outputs of a grid, spread over up × up places each: [B, H, W, outputs] of a map's size."""

    def __init__(self, head, dim, queries):
        super().__init__()
        self.head, width = head, head["width"]
        self.expand = nn.Linear(dim, head["up"] ** 2 * width)
        self.blocks = nn.ModuleList(ConvNeXtBlock(width) for _ in range(head["blocks"]))
        self.out = nn.Linear(width, head["outputs"])

    def forward(self, x, placed, valid, queries):
        (rows, columns), start, up = self.head["grid"], self.head["start"], self.head["up"]
        x = self.expand(x[:, start : start + rows * columns]).unflatten(1, (rows, columns))
        x = x.unflatten(-1, (up, up, -1)).permute(0, 5, 1, 3, 2, 4)
        x = x.reshape(len(x), -1, rows * up, columns * up)
        for block in self.blocks:
            x = block(x)
        y = self.out(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
        y = F.interpolate(y, tuple(self.head["size"]), mode="bilinear", align_corners=False, antialias=True)
        return y.permute(0, 2, 3, 1)


HEADS = {"classification": Classifier, "dense": DenseHead}


class EncDec(nn.Module):
    def __init__(self, config):
        super().__init__()
        c, mods = config["model"], config["modalities"]
        dim, args = c["dim"], (c["dim"], c["heads"], c["mlp_ratio"], c["gated"], c["bias"], c["qk_norm"])
        args = (*args, bool(c["slopes"]))
        self.config = config
        shared, untied = c["tables"] == "shared", c["tables"] == "untied"
        sizes = {m["vocab"]: m["vocab_size"] for m in mods if m["vocab"]}
        asked = {m["vocab"]: 0 for m in mods if m["vocab"] and m["targets"]}
        read = {m["vocab"]: 0 for m in mods if m["vocab"] and (m["inputs"] or shared)}
        self.vocabs = list(asked)

        def tables(vocabs):
            return nn.ParameterDict({v: nn.Parameter(torch.zeros(sizes[v], dim)) for v in vocabs})

        def places(side):
            sets = [m for m in mods if m["kind"] == "set" and (shared or m[side])]
            return nn.ParameterDict({m["name"]: nn.Parameter(torch.zeros(m["shape"][0], dim)) for m in sets})

        # What the encoder reads; unless they are shared, the decoder has its own, and perhaps heads.
        self.tables, self.learned = tables(read), places("inputs")
        self.decoder_tables = None if shared else tables(asked)
        self.decoder_learned = None if shared else places("targets")
        self.heads = tables(asked) if untied else None
        self.dense = nn.ModuleDict({m["name"]: dense(m, dim) for m in mods if m["kind"] in ("pixels", "vectors")})
        self.registers = nn.Parameter(torch.zeros(c["registers"], dim)) if c["registers"] else None
        self.modality = nn.Parameter(torch.zeros(len(mods), dim))
        self.mask_token = nn.Parameter(torch.zeros(dim))
        self.encoder = nn.ModuleList(EncoderBlock(*args, c["adapter"]) for _ in range(c["encoder_depth"]))
        self.decoder = nn.ModuleList(DecoderBlock(*args) for _ in range(c["decoder_depth"]))
        self.encoder_norm, self.decoder_norm = LayerNorm(dim, c["bias"]), LayerNorm(dim, c["bias"])
        self.context = nn.Linear(dim, dim)
        queries = c["pool_queries"] if config["embedded"] else 0
        self.pool_queries = nn.Parameter(torch.zeros(queries, dim)) if queries else None
        pooled = max(queries, 1) * dim
        self.project = nn.ModuleDict({m: nn.Linear(pooled, c["embed_dim"], bias=False) for m in config["embedded"]})
        predictors = {name: HEADS[h["kind"]](h, dim, queries) for name, h in config["predictors"].items()}
        self.predictors = nn.ModuleDict(predictors)
        self.register_buffer("is_sequence", torch.tensor([m["kind"] == "sequence" for m in mods]), persistent=False)
        grids = [[n // max(m["patch"], 1) for n in m["shape"][:2]] if on_grid(m) else [1, 1] for m in mods]
        self.register_buffer("grids", torch.tensor(grids), persistent=False)
        self.register_buffer("on_grid", torch.tensor([float(on_grid(m)) for m in mods]), persistent=False)
        for m, rows in zip(mods, position_tables(mods, dim, c["waves"])):
            self.register_buffer(f"positions_{mods.index(m)}", rows, persistent=False)

    def place(self, modality, position, queries=False):
        learned = self.decoder_learned if queries and self.decoder_learned is not None else self.learned
        x = self.modality[modality]
        for i, m in enumerate(self.config["modalities"]):
            own = modality == i
            table = learned[m["name"]] if m["name"] in learned else self.get_buffer(f"positions_{i}")
            x = x.index_put((own,), x[own] + table[position[own]])
        return x

    def content(self, ids, modality, tables, dense=None):
        rows = torch.zeros(*ids.shape, self.mask_token.shape[0], device=ids.device)
        for i, m in enumerate(self.config["modalities"]):
            own = modality == i
            if m["vocab"] in tables:
                rows[own] = tables[m["vocab"]][ids[own]]
            elif dense and m["name"] in dense:
                projected = F.pad(self.dense[m["name"]](dense[m["name"]]), (0, 0, 0, 1))  # past the last row: zeros
                which = ids.clamp(max=projected.shape[1] - 1)
                rows[own] = projected[torch.arange(len(ids), device=ids.device)[:, None], which][own]
        return rows

    def tokens(self, given):
        """{name: ids [B, L], -1 for none; uint8 pixels [B, H, W, C]; or vectors [B, L, width]} → (inputs, dense)."""
        names, sets, rows = [m["name"] for m in self.config["modalities"]], [], {}
        for name, value in given.items():
            m = self.config["modalities"][names.index(name)]
            if m["kind"] in ("pixels", "vectors"):
                rows[name] = patches(m, value) if m["kind"] == "pixels" else value
            valid = value >= 0 if name not in rows else torch.ones(rows[name].shape[:2], dtype=torch.bool)
            position = torch.arange(valid.shape[1], device=value.device).expand(valid.shape)
            ids = position if name in rows else value.clamp(min=0).long()
            sets.append((ids, torch.full_like(position, names.index(name)), position, valid.to(value.device)))
        return tuple(torch.cat(field, 1) for field in zip(*sets)), rows

    def encode(self, ids, modality, position, valid, dense=None):
        x = (self.content(ids, modality, self.tables, dense) + self.place(modality, position)) * valid[..., None]
        if self.registers is not None:
            x = torch.cat([self.registers.expand(len(x), -1, -1), x], 1)
        where = self._where(modality, position, registers=True)
        for block in self.encoder:
            x = block(x, self._valid(valid)[:, None, None, :], distances(where, where))
        return self.encoder_norm(x)

    def _valid(self, valid, registers=True):
        return valid if self.registers is None else F.pad(valid, (len(self.registers), 0), value=registers)

    def _where(self, modality, position, registers=False):
        """(row, column, 1) in fractions of the picture, zeros off grids."""
        rows, columns = self.grids[modality].unbind(-1)
        at = torch.stack([(position // columns + 0.5) / rows, (position % columns + 0.5) / columns], -1)
        where = F.pad(at, (0, 1), value=1.0) * self.on_grid[modality][..., None]
        return F.pad(where, (0, 0, len(self.registers), 0)) if registers and self.registers is not None else where

    def _placed(self, modality, position, valid):
        placed = self.place(modality, position) * valid[..., None]
        return placed if self.registers is None else F.pad(placed, (0, 0, len(self.registers), 0))

    def embed(self, x, inputs, name):
        _, modality, position, valid = inputs
        pooled = pool(x, self._placed(modality, position, valid), self._valid(valid, False), self.pool_queries)
        return F.normalize(self.project[name](pooled), dim=-1)

    def predict(self, x, inputs, name):
        """What the head `name` says: logits of classes [B, C], or of a map's pixels [B, H, W, C] (depth: metres).

        inputs: all tokens of the modalities that it was trained on, in that order, as `tokens` makes them.
        """
        _, modality, position, valid = inputs
        head, names = self.predictors[name], [m["name"] for m in self.config["modalities"]]
        wanted = torch.tensor([names.index(n) for n, length in head.head["inputs"] for _ in range(length)])
        if modality.shape[1:] != wanted.shape or (modality != wanted.to(modality.device)).any():
            raise ValueError(f"{name!r} reads {head.head['inputs']} (modality, tokens), whole and in this order")
        placed = self.place(modality, position) * valid[..., None]
        return head(x[:, -modality.shape[1] :], placed, valid, self.pool_queries)

    def decode(self, x, inputs, queries):
        if not self.decoder:
            raise ValueError("this model has no decoder: fine-tuning left it behind; see `predict`")
        _, in_modality, in_position, in_valid = inputs
        ids, modality, position, valid = queries
        sequence = self.is_sequence[modality]
        tables = self.tables if self.decoder_tables is None else self.decoder_tables
        start = torch.where(sequence[..., None], self.content(ids, modality, tables), self.mask_token)
        y = (start + self.place(modality, position, queries=True)) * valid[..., None]
        context = self.context(x) + self._placed(in_modality, in_position, in_valid)
        # A modality's queries see their own modality only: sequences their past, the others all of it.
        same = modality[:, :, None] == modality[:, None, :]
        past = position[:, None, :] <= position[:, :, None]
        self_mask = (same & (past | ~sequence[:, :, None]) & valid[:, None, :])[:, None]
        where, in_where = self._where(modality, position), self._where(in_modality, in_position, registers=True)
        between = distances(where, where), distances(where, in_where)
        for block in self.decoder:
            y = block(y, context, self_mask, self._valid(in_valid)[:, None, None, :], *between)
        return self.decoder_norm(y)

    def logits(self, y, vocab):
        head = self.tables if self.decoder_tables is None else self.decoder_tables
        return y @ (head if self.heads is None else self.heads)[vocab].T


def pool(x, placed, valid, queries):
    """Mean of the valid outputs [B, D], or of each query one weighted by how it likes them, [B, queries·D]."""
    valid = valid[:, None]
    if queries is None:
        weights = valid / valid.sum(-1, keepdim=True).clamp(min=1)
    else:
        scores = queries @ (x + placed).transpose(1, 2)
        weights = scores.masked_fill(~valid, torch.finfo(scores.dtype).min).softmax(-1) * valid
    return (weights @ x).flatten(1)


def patches(modality, pixels):
    """uint8 [B, H, W, C] → normalised rows [B, L, width], as the encoder reads them."""
    mean, std = (torch.tensor(modality[k], device=pixels.device) for k in ("mean", "std"))
    p, x = modality["patch"], (pixels / 255.0 - mean) / std
    x = x.unflatten(1, (-1, p)).unflatten(3, (-1, p)).transpose(2, 3)
    return x.flatten(1, 2).flatten(2)


def on_grid(modality):
    return modality["kind"] in ("grid", "pixels")


def distances(a, b):
    """Euclidean, [B, N, M]; 0 where one of the two has no place."""
    square = (a[:, :, None, :2] - b[:, None, :, :2]).square().sum(-1)
    return square.clamp(min=1e-12).sqrt() * (a[:, :, None, 2] * b[:, None, :, 2])


def dense(modality, dim):
    """The projection of patches (row, column, channel) or of vectors."""
    *_, last = modality["shape"]
    if modality["kind"] == "vectors":
        return nn.Linear(last, dim)
    return nn.Linear(modality["patch"] ** 2 * last, dim, bias=False)


def position_tables(mods, dim, waves):
    """[L, D] for each modality: 2-D sine-cosine on grids, 1-D on sequences (and on what masking makes of them)."""

    # 4M's waves in fp32 throughout, as JAX and 4M compute them; others exactly.
    real = torch.float32 if tuple(waves) == (1.0, 10000.0) else torch.float64

    def sincos(position, dim):
        fraction = torch.arange(dim // 2, dtype=real) / (dim / 2)
        omega = 1 / (waves[0] * torch.pow(torch.tensor(waves[1] / waves[0], dtype=real), fraction))
        angle = position.to(real)[:, None] * omega
        return torch.cat([angle.sin(), angle.cos()], 1).float()

    for m in mods:
        if m["kind"] in ("sequence", "vectors"):
            yield sincos(torch.arange(2 * m["shape"][0] + 2), dim)
        elif m["kind"] == "set":
            yield torch.zeros(m["shape"][0], dim)
        else:
            rows, columns = (n // max(m["patch"], 1) for n in m["shape"][:2])
            at = torch.arange(rows * columns)
            places = at // columns, at % columns
            if m["trained_grid"]:  # stretched over the places of the grid that it was trained on
                sizes = zip(places, m["trained_grid"], (rows, columns))
                places = [(p.double() + 0.5) * s / n - 0.5 for p, s, n in sizes]
            yield torch.cat([sincos(p, dim // 2) for p in places], 1)


def check(folder):
    """ValueError if a file of an export folder is not as it was written."""
    with open(os.path.join(folder, "SHA256SUMS"), encoding="utf8") as lines:
        for line in lines:
            digest, _, name = line.rstrip("\n").partition("  ")
            path = os.path.join(folder, name)
            if not os.path.isfile(path):
                raise ValueError(f"{path} is missing, which SHA256SUMS lists: copy the folder again")
            with open(path, "rb") as file:
                if hashlib.file_digest(file, "sha256").hexdigest() != digest:
                    raise ValueError(f"{path} has another sha256 than SHA256SUMS says: copy the folder again")


def load(folder, verify=True):
    """The model of an export folder, in eval mode; every weight of the file is used and none is missing."""
    from safetensors.torch import load_file

    if verify:
        check(folder)
    with open(os.path.join(folder, "config.json"), encoding="utf8") as f:
        model = EncDec(json.load(f))
    model.load_state_dict(load_file(os.path.join(folder, "model.safetensors")), strict=True)
    return model.eval()
