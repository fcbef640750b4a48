"""python -m tools.report --workdir=DIR --out=report.html: one self-contained page on a finished run.

Loss curves and what the model does with held-out examples: masked images filled in, one modality made from another,
captions written, neighbours found; then all its scores.
"""

import argparse
import json
import os
import re
from collections import Counter

import jax
import jax.numpy as jnp
import numpy as np
from matplotlib import pyplot as plt

from pretrain.evals.base import Context
from pretrain.evals.features import together
from pretrain.evals.page import COLUMNS, document, number, table
from pretrain.evals.pictures import Images, image_rows, png
from pretrain.finite import check_finite
from pretrain.generate.chain import Generator, Target
from pretrain.restore import restore
from pretrain.storage import locate, read_rows, write

GRID_PAIRS = (
    ("flat", "render3d"), ("render3d", "noto"), ("line", "render3d"), ("noto", "line"), ("caption", "render3d"),
)  # fmt: skip
RETRIEVALS = (("render3d", "noto"), ("caption", "render3d"))
FAMILIAR = 3  # a word that so many training examples have is one that the model can know
# With guidance's scale: an unguided caption is often a piece that many begin with; one label of a few needs none.
TEXT_PAIRS = (("render3d", "caption", 2.0), ("noto", "caption", 2.0), ("render3d", "group", 1.0))


class Painter:
    """A restored run, its tokenizers, and one batch of held-out examples."""

    def __init__(self, workdir, examples: int):
        self.restored = restore(workdir)
        check_finite(self.restored.params, str(workdir))
        self.context = Context(self.restored.run, self.restored.graphs, self.restored.objectives)
        self.modalities = self.restored.run.modalities
        self.images = Images(self.context)
        self.examples = examples
        joined = jax.tree.map(lambda *x: np.concatenate(x), *self.context.batches(("val", "test"), 64))
        self.held_out = jax.tree.map(lambda x: x[joined["row"] >= 0], joined)
        self.batch = self.some(np.arange(len(self.held_out["row"])))
        self.generator = Generator(self.restored.graph, self.restored.params["model"], self.modalities)

    def some(self, at):
        """A batch of the held-out examples `at`, or of evenly spaced ones of them where they are too many."""
        chosen = at[np.linspace(0, len(at) - 1, min(self.examples, len(at))).round().astype(int)]
        return jax.tree.map(lambda x: jnp.asarray(x[chosen]), self.held_out)

    def familiar(self, name):
        """A batch of those of whose words each stands in `FAMILIAR` training texts or more: of others nobody told it.

        None where no two examples are so.
        """
        count = Counter()
        for batch in self.context.batches(self.restored.run.data.train, 64):
            texts = zip(batch["row"], self.words(name, batch[name]))
            count.update(w for row, text in texts if row >= 0 for w in set(re.findall(r"\w+", text)))
        found = [re.findall(r"\w+", text) for text in self.words(name, self.held_out[name])]
        at = np.flatnonzero([bool(words) and min(count[w] for w in words) >= FAMILIAR for words in found])
        return self.some(at) if len(at) > 1 else None

    def truth(self, name, batch=None):
        return self.images.pictures(name, (batch or self.batch)[name])

    def words(self, name, made) -> list[str]:
        return self.images.words(name, made["ids"], made["valid"])

    def make(self, given, target, batch=None, guidance=1.5) -> dict:
        """What the model makes of a target, given one modality, and somewhat away from what is likely anyway."""
        how = Target(target, temperature=0.0, guidance=guidance)
        if not self.modality(target).text:
            # The surest tokens first, where a picture is given: so they agree best. Given words alone those are the
            # ground, which would leave little else: there chance has a say in the order, as in MaskGIT's code.
            noise = 4.5 if self.modality(given).text else 0.0
            how = Target(target, method="maskgit", temperature=0.0, noise=noise, guidance=guidance)
        return self.generator(batch or self.batch, [given], [how])[target]

    def modality(self, name):
        return next(m for m in self.modalities if m.name == name)


def masked_figure(p: Painter, name="render3d", shown=0.5):
    """The truth, the half of the tokens that the model saw, and the whole picture that it made of them."""
    tokens, truth = p.batch[name], p.truth(name)
    seen = tokens["valid"] & (jax.random.uniform(jax.random.key(0), tokens["ids"].shape) < shown)
    filled = p.make(name, name, p.batch | {name: tokens | {"valid": seen}})["ids"]
    (rows, columns), (_, height, width, _) = p.modality(name).shape, truth.shape
    mask = np.asarray(seen).reshape(-1, rows, columns).repeat(height // rows, 1).repeat(width // columns, 2)
    hidden = np.where(mask[..., None], truth, 200).astype(np.uint8)
    made = p.images.decode(name, filled)
    return png(image_rows([("tokenized", truth), ("shown: half", hidden), ("filled in", made)]))


def pair_figure(p: Painter, source, target) -> str:
    """source → target for every example, above the true target."""
    if not p.modality(source).text:
        made = p.images.pictures(target, p.make(source, target))
        rows = [(f"given: {source}", p.truth(source)), (f"made: {target}", made), (f"true: {target}", p.truth(target))]
        return png(image_rows(rows))
    batch = p.familiar(source)
    note = f'<p class="note">Given a {source} of whose words at least {FAMILIAR} training examples have each.</p>'
    note, batch = (note, batch) if batch else ("", p.batch)
    rows = [
        (f"made: {target}", p.images.pictures(target, p.make(source, target, batch))),
        (f"true: {target}", p.truth(target, batch)),
    ]
    return note + png(image_rows(rows, titles=p.words(source, batch[source])))


def retrieval_figure(p: Painter, query, gallery, nearest=5):
    """For each query the nearest images among all held-out examples, the right one framed."""
    splits = ("val", "test")
    rows, (x, y) = together(p.context, p.restored.params, (query, gallery), splits, "z")
    chosen = np.asarray(p.batch["row"])[:6]
    near = np.argsort(-(x[np.searchsorted(rows, chosen)] @ y.T), axis=1)[:, :nearest]
    return png(p.images.nearest(query, gallery, chosen, rows[near], splits))


def curves_figure(rows):
    """Training and validation losses over steps, the masked and the contrastive terms apart."""
    figure, axes = plt.subplots(1, 2, figsize=(9, 3.2))
    for axis, part in zip(axes, ("masked", "contrastive")):
        names = sorted({k for r in rows for k in r if k.startswith(f"{part}/")})
        for color, name in zip(plt.cm.tab20.colors, names):
            train = [(r["step"], r[name]) for r in rows if name in r]
            val = [(r["step"], r[f"val/{name}"]) for r in rows if f"val/{name}" in r]
            axis.plot(*zip(*train), color=color, label=name.split("/")[1], lw=1)
            if val:
                axis.plot(*zip(*val), "o", color=color, ms=3)
        axis.set(title=f"{part} (line: training, dots: validation)", xlabel="step", ylabel="nats")
        axis.title.set_fontsize(9)
        axis.legend(fontsize=6, ncol=2)
    return png(figure)


def matrix_table(scores) -> str:
    """The NLL matrix: a row for each input, a column for each target."""
    cells = {tuple(k[4:].split("→")): v["value"] for k, v in scores.items() if k.startswith("nll/")}
    targets, inputs = (list(dict.fromkeys(k[i] for k in cells)) for i in (1, 0))
    inputs.sort(key=lambda a: ("unigram", "none").index(a) if a in ("unigram", "none") else 2)
    rows = [[a, *(f"{cells[a, b]:.2f}" if (a, b) in cells else "" for b in targets)] for a in inputs]
    return table(["given ↓ predicted →", *targets], rows)


def page(workdir, examples: int) -> str:
    p = Painter(workdir, examples)
    found = json.loads((locate(workdir) / "eval.json").read_text())
    if "checkpoints" not in found:
        raise ValueError(f"{workdir}/eval.json is of an older version: evaluate again with `python -m pretrain.evals`")
    scores = found["checkpoints"][0]["scores"]
    metrics, _ = read_rows(locate(workdir) / "metrics.jsonl")
    names = {m.name for m in p.modalities}
    parts = ["<h2>Losses</h2>", curves_figure(metrics)]
    parts += ["<h2>Masked tokens filled in</h2>", masked_figure(p)]
    for source, target in GRID_PAIRS:
        if {source, target} <= names:
            parts += [f"<h2>{source} → {target}</h2>", pair_figure(p, source, target)]
    rows, columns = [], [("", p.words("caption", p.batch["caption"]))]
    for source, target, guidance in TEXT_PAIRS:
        if {source, target} <= names:
            columns.append((f"{source} → {target}", p.words(target, p.make(source, target, guidance=guidance))))
    rows = list(zip(*(c for _, c in columns)))
    parts += ["<h2>Words for pictures</h2>", table(["true caption", *(h for h, _ in columns[1:])], rows)]
    for source, target in RETRIEVALS:
        if {source, target} <= names:
            parts += [f"<h2>Nearest: {source} → {target}</h2>", retrieval_figure(p, source, target)]
    plain = [(k, *(number(v.get(key)) for key in COLUMNS)) for k, v in scores.items() if not k.startswith("nll/")]
    parts += [
        "<h2>Held-out scores</h2>",
        table(["", "trained", "chance", "raw pixels or words", "untrained network"], plain),
    ]
    parts += ["<h2>How well one modality predicts another</h2>", matrix_table(scores)]
    parts += ['<p class="note">Nats a token, lower is better. unigram: token frequencies of the training split.</p>']
    run = p.restored.run
    intro = (
        f"<p>{run.steps} steps of {run.batch_size} examples; {len(run.modalities)} modalities: "
        f"{', '.join(m.name for m in run.modalities)}. Everything below is on examples the model never saw.</p>"
    )
    return document("Tokenloom run", f"<h1>What this model learned</h1>{intro}{''.join(parts)}")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workdir", type=os.path.expanduser, required=True, help="a finished run with its eval.json")
    parser.add_argument("--out", type=os.path.expanduser, required=True)
    parser.add_argument("--examples", type=int, default=10)
    args = parser.parse_args()
    write(args.out, page(args.workdir, args.examples))
    print(f"wrote {args.out}")


if __name__ == "__main__":
    main()
