"""What the playground's page asks for: what the model knows, held-out examples, and modalities made from others."""

import base64
import functools
import io
import threading
import time

import numpy as np
from PIL import Image

from pretrain.generate.chain import Generator, Target
from pretrain.generate.relay import Relay
from pretrain.opened import Opened
from tools.playground.request import read_picture, text

SPLITS = ("val", "test")
PREFIX = "data:image/png;base64,"


class Session:
    """Restored runs with their tokenizers, the second for what the first does not make (`generate.relay`).

    step: of the first, None for its newest. ValueError if one cannot generate; FileNotFoundError without tokenizers.
    """

    def __init__(self, *checkpoints, step: int | None = None):
        self.runs = [Opened(c, None if i else step) for i, c in enumerate(checkpoints)]
        self.step = self.runs[0].step
        self.generator = Relay(
            [Generator(r.restored.graph, r.restored.params["model"], r.run.modalities) for r in self.runs]
        )
        self.owners = {}  # {modality: the first run that can show it}
        for run in self.runs:
            for name in run.modalities:
                if hasattr(run.texts.get(name), "decode") or run.images.has(name):
                    self.owners.setdefault(name, run)
        self.modalities = {name: run.modalities[name] for name, run in self.owners.items()}
        self.texts = {name for name, run in self.owners.items() if name in run.texts}
        if not self.modalities:
            raise ValueError(f"{checkpoints}: neither pictures with tokenizers nor texts: nothing to give or see")
        self._lock = threading.Lock()  # one request at a time: they share the device

    def about(self) -> dict:
        """What the page lays out."""
        specs = [m for run in self.runs for m in run.run.modalities if not m.dense]
        given, made = ({m.name for m in specs if getattr(m, side)} for side in ("inputs", "targets"))
        return {
            "step": self.step,
            "modalities": [
                {
                    "name": m.name, "form": "text" if m.name in self.texts else "picture",
                    "give": m.name in given or m.dense, "make": m.name in made,
                    "grey": m.name not in self.texts and self.owners[m.name].shape(m.name)[2] == 1,
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
        run = self.owners[name]
        return run.read(
            name, [text(name, value) if name in self.texts else read_picture(name, value, run.shape(name)[2])]
        )

    def _show(self, name, made) -> str:
        (shown,) = self.owners[name].show(name, made)
        if name in self.texts:
            return shown
        buffer = io.BytesIO()
        Image.fromarray(shown.squeeze()).save(buffer, "PNG")
        return PREFIX + base64.b64encode(buffer.getvalue()).decode()

    @functools.cached_property
    def _examples(self) -> dict:
        """The first batch of held-out examples of the first run."""
        batch = next(iter(self.runs[0].context.batches(SPLITS, 64)))
        keep = batch["row"] >= 0
        return {k: {f: x[keep] for f, x in v.items()} if isinstance(v, dict) else v[keep] for k, v in batch.items()}
