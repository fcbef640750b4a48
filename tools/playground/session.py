"""What the playground's page asks for: what the model knows, held-out examples, and modalities made from others."""

import base64
import functools
import io
import threading
import time

import numpy as np
from PIL import Image

from data_pipeline.image import centre_crop
from pretrain import build
from pretrain.evals.base import Context
from pretrain.evals.pictures import Images
from pretrain.finite import check_finite
from pretrain.generate.chain import Generator, Target
from pretrain.generate.relay import Relay
from pretrain.restore import restore
from tools.playground.request import read_picture, text

SPLITS = ("val", "test")
PREFIX = "data:image/png;base64,"


class Session:
    """Restored runs with their tokenizers, the second for what the first does not make (`generate.relay`).

    step: of the first, None for its newest. ValueError if one cannot generate; FileNotFoundError without tokenizers.
    """

    def __init__(self, *checkpoints, step: int | None = None):
        runs = [restore(c, None if i else step) for i, c in enumerate(checkpoints)]
        for checkpoint, run in zip(checkpoints, runs):
            check_finite(run.params, str(checkpoint))
        self.step = runs[0].step
        self.generator = Relay([Generator(r.graph, r.params["model"], r.run.modalities) for r in runs])
        self.images = {}  # {modality: of the first run that can show it}
        self.texts = {}
        self._contexts = [Context(r.run, r.graphs, r.objectives) for r in runs]
        for context in self._contexts:
            images, tokenizers = Images(context), build.text_tokenizers(context.run)
            for m in context.modalities:
                if m.text and hasattr(tokenizers.get(m.tokenizer), "decode"):
                    self.texts.setdefault(m.name, tokenizers[m.tokenizer])
                if m.name in self.texts or images.has(m.name):
                    self.images.setdefault(m.name, images)
        self.modalities = {name: images.modalities[name] for name, images in self.images.items()}
        if not self.modalities:
            raise ValueError(f"{checkpoints}: neither pictures with tokenizers nor texts: nothing to give or see")
        self._lock = threading.Lock()  # one request at a time: they share the device

    def about(self) -> dict:
        """What the page lays out."""
        specs = [m for c in self._contexts for m in c.modalities if not m.dense]
        given, made = ({m.name for m in specs if getattr(m, side)} for side in ("inputs", "targets"))
        return {
            "step": self.step,
            "modalities": [
                {
                    "name": m.name, "form": "text" if m.name in self.texts else "picture",
                    "give": m.name in given or m.dense, "make": m.name in made,
                    "grey": m.name not in self.texts and self._shape(m.name)[2] == 1,
                }
                for m in self.modalities.values()
            ],
        }  # fmt: skip

    def example(self, number: int) -> dict:
        """{name: picture or text} of a held-out example; numbers go round."""
        batch = self._examples
        at = number % len(batch["row"])
        row = {n: {k: v[at : at + 1] for k, v in batch[n].items()} for n in self.modalities if n in batch}
        return {n: self._show(n, v) for n, v in row.items() if np.any(v["valid"])}

    def generate(self, request: dict) -> dict:
        """request: {"given": {name: text or picture as data URL}, "targets": [names in order], "settings": {…}}, as
        `request.parse` checked it.

        settings: those of `Target`, `guidance` (a scale for all that is given), `seed`. Returns {"made": [{"name",
        "value"}], "seconds"}. ValueError for what the model cannot do.
        """
        settings, names = dict(request.get("settings", {})), request["targets"]
        seed = settings.pop("seed", 0)
        batch = {name: self._read(name, value) for name, value in request.get("given", {}).items()}
        targets = [Target(name, **settings) for name in names]
        started = time.perf_counter()
        with self._lock:
            # A batch without any modality still says how many examples it has.
            made = self.generator(batch | {"row": np.zeros(1, int)}, list(batch), targets, seed=seed)
            shown = [{"name": name, "value": self._show(name, made[name])} for name in names]
        return {"made": shown, "seconds": time.perf_counter() - started}

    def _read(self, name, value: str) -> dict:
        """A text or a picture as a batch of one."""
        if name not in self.modalities:
            raise ValueError(f"given {name!r}: must be one of {', '.join(self.modalities)}")
        m = self.modalities[name]
        if name in self.texts:
            ids = self.texts[name].encode(text(name, value), m.length)
            padded = np.zeros((1, m.length), np.int32)
            padded[0, : len(ids)] = ids
            return {"ids": padded, "valid": np.arange(m.length)[None] < len(ids)}
        height, width, channels = self._shape(name)
        image = centre_crop(read_picture(name, value, channels), (height, width))[None]
        if m.dense:
            return {"pixels": image, "valid": np.ones(1, bool)}
        ids = self.images[name].context.tokenizers[m.tokenizer].encode(image)
        return {"ids": ids, "valid": np.ones(ids.shape, bool)}

    def _show(self, name, made) -> str:
        if name in self.texts:
            return self.images[name].words(name, made["ids"], made["valid"])[0]
        image = self.images[name].pictures(name, made)
        buffer = io.BytesIO()
        Image.fromarray(image[0].squeeze()).save(buffer, "PNG")
        return PREFIX + base64.b64encode(buffer.getvalue()).decode()

    def _shape(self, name) -> tuple[int, int, int]:
        """(height, width, channels) of a modality's pictures."""
        m = self.modalities[name]
        if m.dense:
            return m.shape
        return self.images[name].decode(name, np.zeros((1, m.length), int)).shape[1:]

    @functools.cached_property
    def _examples(self) -> dict:
        """The first batch of held-out examples of the first run."""
        batch = next(iter(self._contexts[0].batches(SPLITS, 64)))
        keep = batch["row"] >= 0
        return {k: {f: x[keep] for f, x in v.items()} if isinstance(v, dict) else v[keep] for k, v in batch.items()}
