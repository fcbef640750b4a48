"""python -m tools.bench_tokenizers --out=DIR: trains a tokenizer with each quantizer and compares what they lose.

Beside them two baselines that train no network: every patch replaced by its mean, or by the nearest of as many patches
as the first tokenizer has codes, the k-means of random crops of the training split, which tokenizers see too. Prints a
table of the held-out split and writes it with pictures to DIR/tokenizers.html. A quantizer that DIR holds already is
not trained again.
"""

import argparse
import functools
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from pretrain import build
from pretrain.evals.base import Context
from pretrain.evals.page import document, table
from pretrain.evals.pictures import image_rows, png
from pretrain.evals.reconstruction import Evaluator, psnr, ssim
from pretrain.restore import load_tokenizer, restore
from pretrain.storage import write
from pretrain.tokenizers.kmeans import kmeans
from pretrain.tokenizers.networks.patches import patchify, unpatchify
from pretrain.tokenizers.quantizers.base import nearest

QUANTIZERS = "kmeans,fsq,vq,euclidean,residual,lfq,memcodes"


def train(config: str, workdir: Path, steps: int):
    flags = [f"--config.{key}={steps}" for key in ("steps", "checkpoint.every", "evals.val.every")]
    subprocess.run([sys.executable, "-m", "pretrain", f"--config={config}", f"--workdir={workdir}", *flags], check=True)


def pictures(context, split) -> np.ndarray:
    """Every picture of a split, uint8 `[n, H, W, C]`."""
    found = []
    for batch in context.batches(split, 64):
        for m in context.modalities:
            found.append(batch[m.name]["pixels"][batch[m.name]["valid"] & (batch["row"] >= 0)])
    return np.concatenate(found)


class Baselines:
    """Pictures in patches, without a network."""

    def __init__(self, images, patch: int, count: int, rows: int = 60_000):
        self.patch, self.grid = patch, tuple(n // patch for n in images.shape[1:3])
        cut = np.asarray(patchify(images, patch)).reshape(-1, patch**2 * images.shape[-1])
        chosen = np.random.default_rng(0).choice(len(cut), min(rows, len(cut)), replace=False)
        self.means = np.asarray(kmeans(cut[chosen], count)[0])

    def mean(self, images):
        cut = np.asarray(patchify(images, self.patch), np.float32)
        colours = cut.reshape(*cut.shape[:2], -1, images.shape[-1]).mean(2, keepdims=True)
        return self._join(
            np.broadcast_to(colours, (*cut.shape[:2], self.patch**2, images.shape[-1])).reshape(cut.shape)
        )

    def kmeans(self, images):
        cut = np.asarray(patchify(images, self.patch), np.float32)
        return self._join(
            self.means[np.asarray(nearest(cut.reshape(-1, cut.shape[-1]), self.means, cosine=False))].reshape(cut.shape)
        )

    def _join(self, cut):
        return np.asarray(unpatchify(cut, self.patch, self.grid)).round().clip(0, 255).astype(np.uint8)


def crops(run) -> np.ndarray:
    """A random crop of every picture of the training split, as the tokenizers see them."""
    encode, source = build.encoder(run, train=True), build.source(run.data, run.data.train)
    rng = np.random.default_rng(0)
    examples = (encode(source[i], rng) for i in range(len(source)))
    return np.stack([e[m.name]["pixels"] for e in examples for m in run.modalities if e[m.name]["valid"]])


def closeness(made, images) -> dict:
    """Mean PSNR and SSIM over pictures, as `evals.reconstruction` has them."""
    out = {}
    for name, score in (("psnr", psnr), ("ssim", ssim)):
        score, parts = jax.jit(score), range(0, len(images), 256)
        found = [score(jnp.float32(made[i : i + 256]), jnp.float32(images[i : i + 256])) for i in parts]
        out[name] = float(np.concatenate(found).mean())
    return out


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", required=True, help="folder of the workdirs and of the page")
    parser.add_argument("--config", default="configs/emoji_tokenizer.py:rgb", help="`-QUANTIZER` is appended")
    parser.add_argument("--quantizers", default=QUANTIZERS)
    parser.add_argument("--steps", type=int, default=1800)
    parser.add_argument("--split", default="val")
    parser.add_argument("--examples", type=int, default=12)
    args = parser.parse_args()

    out, names, scores, decode, size = Path(args.out), args.quantizers.split(","), {}, {}, 0
    for name in names:
        train(f"{args.config}-{name}", out / name, args.steps)
        held = restore(out / name)
        context = Context(held.run, held.graphs, held.objectives)
        scores[name] = dict(Evaluator(context, split=args.split).run(held.params))
        tokenizer = load_tokenizer(out / name)
        decode[name] = functools.partial(lambda t, x: t.decode(t.encode(x)), tokenizer)
        size = size or tokenizer.vocab_size
    images = pictures(context, args.split)
    baselines = Baselines(crops(held.run), held.run.model["encoder"]["patch"], size)
    decode |= {"k-means patches": baselines.kmeans, "mean patches": baselines.mean}
    for name in ("k-means patches", "mean patches"):
        scores[name] = closeness(decode[name](images), images)

    keys = ("usage", "perplexity", "psnr", "ssim")
    rows = [[n, *(f"{s[k]:.3f}" if k in s else "" for k in keys)] for n, s in scores.items()]
    print("\n".join("  ".join(f"{cell:>15}" for cell in row) for row in [["", *keys], *rows]))
    shown = images[np.linspace(0, len(images) - 1, args.examples).round().astype(int)]
    figure = image_rows([("true", shown), *((name, make(shown)) for name, make in decode.items())])
    figure.savefig(out / "tokenizers.png", dpi=110, bbox_inches="tight")
    note = f"{args.steps} steps each; pictures of the split {args.split!r}. {size} k-means patches."
    body = f"<h1>Tokenizers</h1><p>{note}</p>{table(['', *keys], rows)}{png(figure)}"
    write(out / "tokenizers.html", document("Tokenizers", body))
    print(f"wrote {out / 'tokenizers.html'}")


if __name__ == "__main__":
    main()
