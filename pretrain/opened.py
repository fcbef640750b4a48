"""A trained run in a few lines of Python: what `pretrain.open` gives."""

import functools
from collections.abc import Sequence

import jax
import numpy as np

from data_pipeline.image import centre_crop
from pretrain import build
from pretrain.evals import harness
from pretrain.evals.base import Context
from pretrain.evals.features import embed
from pretrain.evals.pictures import Images
from pretrain.finite import check_finite
from pretrain.generate.chain import Generator, Target
from pretrain.restore import restore


class Opened:
    """A workdir's network and tokenizers, for texts and pictures of one's own.

    A picture is uint8 `[H, W, C]` of any size and is cut to its centre; a text is a string. Values of a modality, which
    is named as in the run's config, are a list of either.

    Args:
      workdir: of `python -m pretrain` or `tools.convert`.
      step: of its checkpoints, None for the newest.

    Raises:
      FileNotFoundError: no workdir, or a tokenizer of pictures that it names is not there when it is needed.
      ValueError: parameters that are not finite.
    """

    def __init__(self, workdir, step: int | None = None):
        self.workdir, self.restored = workdir, restore(workdir, step)
        check_finite(self.restored.params, str(workdir))
        self.step, self.run = self.restored.step, self.restored.run
        self.context = Context(self.run, self.restored.graphs, self.restored.objectives)
        self.modalities = {m.name: m for m in self.run.modalities}
        self.images = Images(self.context)

    @functools.cached_property
    def texts(self) -> dict:
        """{modality: its tokenizer} of those that are texts which can be read and written."""
        known = build.text_tokenizers(self.run)
        return {n: known[m.tokenizer] for n, m in self.modalities.items() if m.text and m.tokenizer in known}

    def shape(self, name: str) -> tuple[int, int, int]:
        """(height, width, channels) of a modality's pictures."""
        m = self._picture(name)
        return m.shape if m.dense else self.images.decode(name, np.zeros((1, m.length), int)).shape[1:]

    def read(self, name: str, values: Sequence) -> dict:
        """Texts or pictures of a modality as a batch holds them: {"ids" or "pixels", "valid"}, `[n, …]` each."""
        if name in self.texts:
            return build.write(self.run, name, values)
        m, (height, width, channels) = self._picture(name), self.shape(name)
        images = []
        for value in values:
            image = np.asarray(value)
            if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != channels:
                raise ValueError(
                    f"modality {name!r}: a picture of {image.dtype}{list(image.shape)}: give uint8[H, W, {channels}]"
                )
            images.append(centre_crop(image, (height, width)))
        if m.dense:
            return {"pixels": np.stack(images), "valid": np.ones(len(images), bool)}
        ids = self.context.tokenizers[m.tokenizer].encode(np.stack(images))
        return {"ids": ids, "valid": np.ones(ids.shape, bool)}

    def show(self, name: str, made: dict) -> list:
        """What a batch holds of a modality, → texts or pictures uint8 `[H, W, C]`."""
        if name in self.texts:
            return self.images.words(name, made["ids"], made["valid"])
        self._picture(name)
        return list(self.images.pictures(name, made))

    def embed(self, name: str, values: Sequence) -> np.ndarray:
        """Their vectors `[n, E]`, of unit length: in the space that objectives compare, where there is one."""
        if name not in self.context.readable:
            known = ", ".join(self.context.readable)
            raise ValueError(f"modality {name!r}: this network makes no vector of it; it does of {known}")
        return embed(self.context, self.restored.params, {name: self.read(name, values)})

    def generate(self, given: dict, targets: Sequence, *, seed: int = 0) -> dict:
        """{modality: texts or pictures} of targets, made one after another from what is given.

        given: {modality: its values}, as many of each. targets: names, or `Target`s, which say how.
        """
        sizes = {name: len(values) for name, values in given.items()}
        if len(set(sizes.values())) > 1:
            raise ValueError(f"given: {sizes}: give as many values of each modality")
        size = next(iter(sizes.values()), 1)
        batch = {"row": np.arange(size)} | {name: self.read(name, values) for name, values in given.items()}
        wanted = [Target(t) if isinstance(t, str) else t for t in targets]
        made = self._generator(batch, list(given), wanted, seed=seed)
        return {t.name: self.show(t.name, jax.device_get(made[t.name])) for t in wanted}

    def evaluate(self, tasks: Sequence[str] = ()) -> dict:
        """{score: {"value", "chance", "raw", "untrained"}} of transfer tasks on the run's own held-out data; () for the
        `final_evals` of its config."""
        restored, context = harness.open_run(self.workdir, self.step)
        return harness.evaluate(restored, harness.make_tasks(context, tuple(tasks))[0])

    @functools.cached_property
    def _generator(self) -> Generator:
        return Generator(self.restored.graph, self.restored.params["model"], self.run.modalities)

    def _picture(self, name: str):
        if not (name in self.modalities and self.images.has(name)):
            known = ", ".join(self.modalities)
            raise ValueError(f"modality {name!r}: neither a text nor a picture of this run, which has {known}")
        return self.modalities[name]
