"""4M's tokenizers as small PyTorch modules, written from their formulas with the names of their tensors.

What ours is compared with; `Tokenizer.state()` is a checkpoint of random numbers.
"""

import math

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn


def mlp(dim, hidden):
    return nn.ModuleDict({"fc1": nn.Linear(dim, hidden), "fc2": nn.Linear(hidden, dim)})


class Block(nn.Module):
    def __init__(self, dim, heads, ratio):
        super().__init__()
        self.heads = heads
        self.norm1, self.norm2 = nn.LayerNorm(dim, eps=1e-6), nn.LayerNorm(dim, eps=1e-6)
        self.attn = nn.ModuleDict({"qkv": nn.Linear(dim, 3 * dim), "proj": nn.Linear(dim, dim)})
        self.mlp = mlp(dim, ratio * dim)

    def forward(self, x):
        b, n, d = x.shape
        q, k, v = self.attn["qkv"](self.norm1(x)).view(b, n, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        y = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(b, n, d)
        x = x + self.attn["proj"](y)
        return x + self.mlp["fc2"](F.gelu(self.mlp["fc1"](self.norm2(x))))


class ConvNeXt(nn.Module):
    def __init__(self, dim):
        super().__init__()
        self.dwconv, self.norm = nn.Conv2d(dim, dim, 7, padding=3, groups=dim), nn.LayerNorm(dim, eps=1e-6)
        self.pwconv1, self.pwconv2 = nn.Linear(dim, 4 * dim), nn.Linear(4 * dim, dim)
        self.gamma = nn.Parameter(torch.ones(dim))

    def forward(self, x):
        y = self.norm(self.dwconv(x).movedim(1, -1))
        return x + (self.gamma * self.pwconv2(F.gelu(self.pwconv1(y)))).movedim(-1, 1)


class Vit(nn.Module):
    """Either side. patch: of the projection, 1 where the reference has patch_proj=False."""

    def __init__(self, dim, depth, heads, ratio, grid, *, patch, channels, decoder, post_mlp, convs=0):
        super().__init__()
        self.decoder, self.patch, self.channels = decoder, patch, channels
        rows, columns = torch.meshgrid(torch.arange(grid), torch.arange(grid), indexing="ij")
        omega = 10000.0 ** -(torch.arange(dim // 4) / (dim // 4))
        angles = [at.flatten()[:, None] * omega for at in (rows, columns)]
        table = torch.cat([f(a) for a in angles for f in (torch.sin, torch.cos)], 1)
        self.pos_emb = nn.Parameter(table.T.reshape(1, dim, grid, grid), requires_grad=False)
        self.blocks = nn.ModuleList(Block(dim, heads, ratio) for _ in range(depth))
        if decoder:
            self.out_proj = nn.Linear(dim, channels * patch**2)
        else:
            self.proj = nn.Conv2d(channels, dim, patch, patch)
        if post_mlp:
            self.norm_mlp, self.post_mlp = nn.LayerNorm(dim, eps=1e-6), mlp(dim, ratio * dim)
        if convs:
            self.out_conv = nn.ModuleList(ConvNeXt(channels) for _ in range(convs))

    def forward(self, x):
        x = x if self.decoder else self.proj(x)
        side = x.shape[-1]
        x = (
            (x + F.interpolate(self.pos_emb, size=(side, side), mode="bicubic", align_corners=False))
            .flatten(2)
            .transpose(1, 2)
        )
        for block in self.blocks:
            x = block(x)
        if hasattr(self, "post_mlp"):
            x = x + self.post_mlp["fc2"](torch.tanh(self.post_mlp["fc1"](self.norm_mlp(x))))
        if not self.decoder:
            return x.transpose(1, 2).unflatten(2, (side, side))
        x = self.out_proj(x).transpose(1, 2).unflatten(2, (side, side))
        x = F.pixel_shuffle(x, self.patch)  # channels are (c, row, column) of a patch
        for conv in getattr(self, "out_conv", ()):
            x = conv(x)
        return x


class BottleneckMlp(nn.Module):
    def __init__(self, d_in, dim, d_out, depth, ratio=4):
        super().__init__()
        self.linear_in, self.linear_out = nn.Linear(d_in, dim), nn.Linear(dim, d_out)
        self.layernorms = nn.ModuleList(nn.LayerNorm(dim) for _ in range(depth))
        self.blocks = nn.ModuleList(
            nn.ModuleDict({"block": nn.Sequential(nn.Linear(dim, ratio * dim), nn.GELU(), nn.Linear(ratio * dim, dim))})
            for _ in range(depth)
        )

    def forward(self, x):  # [B, C, 1, 1]
        x = self.linear_in(x.movedim(1, -1))
        for norm, block in zip(self.layernorms, self.blocks):
            x = x + block["block"](norm(x))
        return self.linear_out(x).movedim(-1, 1)


class Codebook(nn.Module):
    """Cosine similarity picks the code; the code comes back as it is stored."""

    def __init__(self, size, dim):
        super().__init__()
        self._codebook = nn.Module()
        made = dict(initted=torch.ones(1), cluster_size=torch.rand(size), embed=torch.randn(size, dim))
        for name, value in made.items():
            self._codebook.register_buffer(name, value)

    def forward(self, z):  # [B, D, H, W]
        codes = self._codebook.embed
        z = z.movedim(1, -1)
        ids = (F.normalize(z, dim=-1) @ F.normalize(codes, dim=-1).T).argmax(-1)
        return (z + (codes[ids] - z).detach()).movedim(-1, 1), ids.flatten(1)


class Memcodes(nn.Module):
    def __init__(self, heads, size, dim):
        super().__init__()
        self.codes = nn.Parameter(torch.randn(heads, size, dim // heads))
        self.to_k, self.to_v = nn.Module(), nn.Module()
        for m in (self.to_k, self.to_v):
            m.weight = nn.Parameter(torch.randn(heads, dim // heads, dim // heads) / math.sqrt(dim // heads))

    def forward(self, x):  # [B, D, 1, 1]
        q = x.flatten(1).unflatten(1, (len(self.codes), -1))
        ids = torch.einsum("bhd,hnd->bhn", q, self.codes @ self.to_k.weight).argmax(-1)
        values = self.codes @ self.to_v.weight
        found = torch.stack([values[h][ids[:, h]] for h in range(len(values))], 1)
        return found.reshape(x.shape), ids


class ResBlock(nn.Module):
    def __init__(self, c_in, c_out, hidden, groups):
        super().__init__()
        self.in_layers = nn.Sequential(nn.GroupNorm(groups, c_in), nn.SiLU(), nn.Conv2d(c_in, c_out, 3, padding=1))
        self.emb_layers = nn.Sequential(nn.SiLU(), nn.Linear(hidden, c_out))
        self.out_layers = nn.Sequential(
            nn.GroupNorm(groups, c_out), nn.SiLU(), nn.Identity(), nn.Conv2d(c_out, c_out, 3, padding=1)
        )
        self.skip_connection = nn.Conv2d(c_in, c_out, 1) if c_in != c_out else nn.Identity()

    def forward(self, x, time):
        y = self.in_layers(x) + self.emb_layers(time)[..., None, None]
        return self.skip_connection(x) + self.out_layers(y)


class AttentionBlock(nn.Module):
    def __init__(self, channels, groups):
        super().__init__()
        self.norm, self.qkv = nn.GroupNorm(groups, channels), nn.Conv1d(channels, 3 * channels, 1)
        self.proj_out = nn.Conv1d(channels, channels, 1)

    def forward(self, x, time):
        q, k, v = self.qkv(self.norm(x.flatten(2))).transpose(1, 2).chunk(3, -1)
        y = F.scaled_dot_product_attention(q, k, v).transpose(1, 2)
        return x + self.proj_out(y).view(x.shape)


class Wrapped(nn.Module):
    """A convolution under the name that it has in the reference; up: on the map at twice its size."""

    def __init__(self, name, conv, up=False):
        super().__init__()
        self.name, self.up = name, up
        setattr(self, name, conv)

    def forward(self, x, time):
        return getattr(self, self.name)(F.interpolate(x, scale_factor=2, mode="nearest") if self.up else x)


class Plain(nn.Conv2d):
    def forward(self, x, time):
        return super().forward(x)


class Unet(nn.Module):
    def __init__(self, channels, cond, *, patch, width, multipliers, blocks, attention, groups):
        super().__init__()
        self.patch, self.width = patch, width
        hidden, pixels, last = 4 * width, channels * patch**2, len(multipliers) - 1
        self.time_embed = nn.Sequential(nn.Linear(width, hidden), nn.SiLU(), nn.Linear(hidden, hidden))
        x = width * multipliers[0]
        made, skips = [[Plain(pixels + cond, x, 3, padding=1)]], [x]
        for i, m in enumerate(multipliers):
            for _ in range(blocks):
                made.append([ResBlock(x, width * m, hidden, groups)])
                x = width * m
                if 2**i in attention:
                    made[-1].append(AttentionBlock(x, groups))
                skips.append(x)
            if i < last:
                made.append([Wrapped("op", nn.Conv2d(x, x, 3, stride=2, padding=1))])
                skips.append(x)
        self.input_blocks = nn.ModuleList(map(nn.ModuleList, made))
        self.middle_block = nn.ModuleList(
            [ResBlock(x, x, hidden, groups), AttentionBlock(x, groups), ResBlock(x, x, hidden, groups)]
        )
        made = []
        for i, m in reversed(list(enumerate(multipliers))):
            for j in range(blocks + 1):
                made.append([ResBlock(x + skips.pop(), width * m, hidden, groups)])
                x = width * m
                if 2**i in attention:
                    made[-1].append(AttentionBlock(x, groups))
                if i and j == blocks:
                    made[-1].append(Wrapped("conv", nn.Conv2d(x, x, 3, padding=1), up=True))
        self.output_blocks = nn.ModuleList(map(nn.ModuleList, made))
        self.out = nn.Sequential(nn.GroupNorm(groups, x), nn.SiLU(), nn.Conv2d(x, pixels, 3, padding=1))

    def forward(self, x, t, cond):
        half = self.width // 2
        angle = t[:, None].float() * torch.exp(-math.log(10000) * torch.arange(half) / half)
        time = self.time_embed(torch.cat([torch.cos(angle), torch.sin(angle)], -1))
        x = F.pixel_unshuffle(x, self.patch)
        x = torch.cat([x, F.interpolate(cond, x.shape[2:], mode="nearest")], 1)
        skips = []
        for layers in self.input_blocks:
            for layer in layers:
                x = layer(x, time)
            skips.append(x)
        for layer in self.middle_block:
            x = layer(x, time)
        for layers in self.output_blocks:
            x = torch.cat([x, skips.pop()], 1)
            for layer in layers:
                x = layer(x, time)
        return F.pixel_shuffle(self.out(x), self.patch)


class Tokenizer(nn.Module):
    """Encoder, quantizer and decoder with the projections between them; a UNet reads the codes themselves."""

    def __init__(self, encoder, quantizer, decoder, widths, classes=None):
        super().__init__()
        self.cls_emb = nn.Embedding(*classes) if classes else None
        enc_dim, code_dim, dec_dim = widths
        self.encoder, self.quant_proj, self.quantize = encoder, nn.Conv2d(enc_dim, code_dim, 1), quantizer
        self.decoder = decoder
        self.post_quant_proj = nn.Conv2d(code_dim, dec_dim, 1) if dec_dim else None

    def encode(self, x):
        """(z before quantization, codes, ids)."""
        z = self.quant_proj(self.encoder(self.cls_emb(x).movedim(-1, 1) if self.cls_emb else x))
        return z, *self.quantize(z)

    def forward(self, x):
        return self.decoder(self.post_quant_proj(self.encode(x)[1]))

    def state(self) -> dict[str, np.ndarray]:
        return {k: v.detach().numpy().copy() for k, v in self.state_dict().items()}


def randomize(module, seed=0, scale=0.2):
    """Every parameter that learns becomes its initial value and noise: no bias, norm or gate stays trivial."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for p in module.parameters():
            if p.requires_grad:
                p += scale * torch.randn(p.shape, generator=generator)
    return module.eval()
