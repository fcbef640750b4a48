"""Figures of a page: the pictures that tokens stand for, rows of them, and matrices."""

import base64
import io

import matplotlib
import numpy as np

from data_pipeline.text import TextTokenizer
from pretrain import build
from pretrain.evals.base import Context

matplotlib.use("Agg")
from matplotlib import pyplot as plt


class Images:
    """What the examples of a run look like: pixels as they are, tokens as their tokenizers decode them."""

    def __init__(self, context: Context):
        self.context = context
        self.modalities = {m.name: m for m in context.modalities}

    def has(self, name: str) -> bool:
        """Whether a representation is one modality that can be shown."""
        m = self.modalities.get(name)
        return m is not None and bool(m.grid) and (m.dense or m.tokenizer in self.context.tokenizers)

    def decode(self, name: str, ids) -> np.ndarray:
        """ids `[n, L]` of a grid modality → uint8 `[n, H, W, C]`, the frames of clips side by side."""
        made = self.context.tokenizers[self.modalities[name].tokenizer].decode(np.asarray(ids))
        return np.concatenate(list(made.swapaxes(0, 1)), axis=2) if made.ndim == 5 else made

    def pictures(self, name: str, given: dict) -> np.ndarray:
        """{"pixels"} or {"ids"} of a modality that it `has` → uint8 `[n, H, W, C]`."""
        dense = self.modalities[name].dense
        return np.asarray(given["pixels"]) if dense else self.decode(name, given["ids"])

    def words(self, name: str, ids, valid) -> list[str]:
        """ids, valid `[n, L]` of a sequence → texts; "" where no tokenizer is known."""
        tokenizer = build.text_tokenizers(self.context.run).get(self.modalities[name].tokenizer)
        if tokenizer is None:
            return [""] * len(ids)
        plain = dict(sentinels=False) if isinstance(tokenizer, TextTokenizer) else {}
        return [tokenizer.decode(np.asarray(i)[np.asarray(v)], **plain) for i, v in zip(ids, valid)]

    def show(self, name: str, rows, splits) -> list:
        """For each example its picture uint8 `[H, W, C]`, or its text."""
        held, wanted = {}, set(np.ravel(rows).tolist())
        m = self.modalities[name]
        for batch in self.context.batches(splits, 64):
            keep = [i for i, row in enumerate(batch["row"].tolist()) if row in wanted]
            if not keep:
                continue
            mine = {k: v[keep] for k, v in batch[name].items()}
            if m.text:
                shown = self.words(name, mine["ids"], mine["valid"])
            else:
                shown = self.pictures(name, mine)
            held |= dict(zip(batch["row"][keep].tolist(), shown))
        return [held[row] for row in np.ravel(rows).tolist()]

    def nearest(self, query: str, gallery: str, rows, near, splits):
        """A row for each query `[n]`: what it is, and the pictures of the examples `near [n, k]`, its own framed."""
        texts = self.modalities[query].text
        asked = self.show(query, rows, splits) if texts or self.has(query) else [""] * len(rows)
        found = iter(self.show(gallery, near, splits))
        n, k = near.shape
        first = 0 if texts else 1
        figure, axes = plt.subplots(n, k + first, figsize=((k + first) * 1.1, n * 1.35), squeeze=False)
        for i in range(n):
            for j in range(k):
                draw(axes[i, j + first], next(found), "tab:green" if near[i, j] == rows[i] else None)
            if texts:
                axes[i, 0].set_title(asked[i], fontsize=8, loc="left")
            elif self.has(query):
                draw(axes[i, 0], asked[i])
            else:
                axes[i, 0].axis("off")
        return figure


def draw(axis, image, frame=None):
    """A picture uint8 `[H, W, C]`, grey if C is 1, with a frame of a colour or none."""
    axis.imshow(image.squeeze(), cmap="gray", vmin=0, vmax=255)
    axis.set_xticks([])
    axis.set_yticks([])
    for spine in axis.spines.values():
        spine.set(visible=frame is not None, color=frame or "none", linewidth=3)


def image_rows(rows, titles=None):
    """rows: list of (label, images uint8 `[n, H, W, C]`) → figure."""
    n = len(rows[0][1])
    figure, axes = plt.subplots(len(rows), n, figsize=(n * 1.15, len(rows) * 1.25), squeeze=False)
    for i, (label, images) in enumerate(rows):
        for j, image in enumerate(images):
            draw(axes[i, j], image)
        axes[i, 0].set_title(label, fontsize=8, loc="left")
    for axis, title in zip(axes[-1], titles or ()):
        axis.set_xlabel("\n".join(title[k : k + 16] for k in range(0, min(len(title), 48), 16)), fontsize=6)
    return figure


def matrix(values, rows, columns, form: str = "{:.2f}"):
    """values `[n, m]` as a figure of shaded cells with their numbers."""
    figure, axis = plt.subplots(figsize=(0.6 * len(columns) + 1.6, 0.4 * len(rows) + 1))
    axis.imshow(values, cmap="Blues")
    axis.set_xticks(range(len(columns)), [str(c)[:18] for c in columns], rotation=45, ha="right", fontsize=7)
    axis.set_yticks(range(len(rows)), [str(r)[:18] for r in rows], fontsize=7)
    middle = (np.min(values) + np.max(values)) / 2
    for i, row in enumerate(values):
        for j, value in enumerate(row):
            axis.text(j, i, form.format(value), ha="center", va="center", fontsize=7,
                      color="white" if value > middle else "black")  # fmt: skip
    return figure


def maps(named: dict):
    """{title: values `[n, n]`} side by side as shaded squares, each from its least to its largest off the diagonal."""
    figure, axes = plt.subplots(1, len(named), figsize=(3.2 * len(named), 3.4), squeeze=False)
    for axis, (title, values) in zip(axes[0], named.items()):
        others = values[~np.eye(len(values), dtype=bool)]
        axis.imshow(values, cmap="Blues", vmin=others.min(), vmax=np.quantile(others, 0.99))
        axis.set_title(title[:30], fontsize=8)
        axis.set_axis_off()
    return figure


def curves(named: dict, over: str = "layer"):
    """{name: values of every layer, or of what else they are over} as lines."""
    figure, axis = plt.subplots(figsize=(5.2, 2.8))
    for name, values in named.items():
        axis.plot(range(len(values)), values, marker="o" if len(values) < 50 else "", markersize=3, label=name)
    axis.set_xlabel(over, fontsize=8)
    axis.tick_params(labelsize=7)
    axis.xaxis.get_major_locator().set_params(integer=True)
    axis.legend(fontsize=7, frameon=False, loc="center left", bbox_to_anchor=(1, 0.5))
    return figure


def classes(maps, count: int):
    """Maps of class numbers `[n, H, W]` → uint8 `[n, H, W, 3]`, a colour a class; numbers of no class are white."""
    colours = (255 * plt.cm.tab20(np.arange(count) % 20)[:, :3]).astype(np.uint8)
    return np.where((maps < count)[..., None], colours[np.minimum(maps, count - 1)], 255).astype(np.uint8)


def stacked(named: dict, lines=()):
    """{row: {part: share}} as a bar a row, its parts one behind another; lines: a mark at a share of each row."""
    figure, axis = plt.subplots(figsize=(7, 0.55 * len(named) + 0.6))
    for at, shares in enumerate(named.values()):
        ends = np.cumsum([0, *shares.values()])
        for i, (part, share) in enumerate(shares.items()):
            axis.barh(at, share, left=ends[i], color=plt.cm.Blues(0.85 - 0.65 * i / len(shares)), edgecolor="white")
            if share > 0.06:
                axis.text(ends[i] + share / 2, at, f"{part}\n{share:.2f}", ha="center", va="center", fontsize=7)
    for at, line in enumerate(lines):
        axis.plot([line, line], [at - 0.4, at + 0.4], color="tab:red")
    axis.set_yticks(range(len(named)), [str(name)[:60] for name in named], fontsize=8)
    axis.invert_yaxis()
    axis.set_xlim(0, 1)
    return figure


def bars(named: dict):
    """{row: number} as a bar a row."""
    figure, axis = plt.subplots(figsize=(6, 0.25 * len(named) + 0.6))
    axis.barh(range(len(named)), list(named.values()), color=plt.cm.Blues(0.7))
    axis.set_yticks(range(len(named)), [str(name)[:60] for name in named], fontsize=7)
    axis.invert_yaxis()
    return figure


def png(figure) -> str:
    """A figure as an <img> that holds its bytes; the figure is closed."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=110, bbox_inches="tight")
    plt.close(figure)
    return f'<img alt="" src="data:image/png;base64,{base64.b64encode(buffer.getvalue()).decode()}">'
