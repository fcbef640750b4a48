"""From a random-access source to batches: clean, aligned, repeatable, the same for any number of workers and hosts.

A batch is `{modality: {"ids": int[B, L], "valid": bool[B, L]}}`, for pixels `{modality: {"pixels": uint8[B, H, W, C],
"valid": bool[B]}}`, for a video the same with uint8[B, T, H, W, C], for vectors `{modality: {"vectors": float32[B, L,
width], "valid": bool[B, L]}}`, plus `"row": int64[B]`, a stable example number, and of a mixture `"source": int32[B]`,
the number of the source that an example is from. An absent modality is all `valid=False`.
Nothing is masked here: corruption is the objective's, on the device.
"""

import dataclasses
import functools
import itertools
import multiprocessing
import os
import threading

import grain
import numpy as np
from absl import flags

from data_pipeline import kinds, mixture, transforms
from data_pipeline.checks import check_fields, check_maps, check_transforms
from data_pipeline.orders.shuffle import Order as Shuffle
from data_pipeline.pictures import common_frame
from data_pipeline.spec import Modality
from data_pipeline.transforms import base, crop
from data_pipeline.view import CROPS, VIEW, look

SHUFFLE = Shuffle()


@dataclasses.dataclass(frozen=True)
class Encoder:
    """Turns one raw or tokenized example into arrays, modality by modality.

    train=True draws what transforms and texts show at random from the example's own generator; train=False is the
    deterministic form: the centre crop, the first language or caption, the given order.

    tokenizers: {name: a tokenizer of texts (`text_tokenizers`)}; sequences of other tokenizers hold their ids already.
    transforms: what is done to an example before it becomes arrays, in order (`data_pipeline.transforms`).
    ends: texts that keep their end token where they are too long.
    """

    modalities: tuple[Modality, ...]
    tokenizers: dict
    train: bool
    transforms: tuple[base.Transform, ...] = (crop.Transform(),)
    ends: frozenset[str] = frozenset()

    def __post_init__(self):
        transforms.check(self.transforms, self.modalities)
        shapes = {m.name: m.shape[-3:-1] for m in self._pictures}
        if shapes:
            common_frame(shapes, "modalities: shape")

    def __call__(self, example: dict, rng: np.random.Generator) -> dict:
        """A batch of one example without its leading axis."""
        return _map(lambda x: x[0], self.collate([self.choose(example, rng)]))

    def read(self, source, index: int) -> dict:
        """An example, of sources that can tell fields apart with no more than what the modalities are made from."""
        return mixture.pick(source, index, *self._reads)

    @functools.cached_property
    def _reads(self) -> tuple[frozenset, frozenset]:
        """(all fields, those that are texts whatever they look like)."""
        texts = {m.field for m in self.modalities if self._is_known(m)}
        others = {field for m in self.modalities if not self._is_known(m) for field in m.fields}
        fields = {field for m in self.modalities for field in m.fields} | {CROPS}
        for transform in reversed(self.transforms):
            reads = {field for field in transform.reads if not field.startswith(VIEW)}
            fields |= reads
            if texts.intersection(transform.writes):  # a text is made of texts
                texts |= {field for field in reads if field.partition("/")[0] not in others}
        return frozenset(fields), frozenset(texts)

    def choose(self, example: dict, rng: np.random.Generator | None) -> dict:
        """What is drawn and made of one example: {entry: ids, rows of vectors or a picture; None if it lacks it}."""
        rng = rng if self.train else None
        out = {"row": example["row"]}
        if mixture.SOURCE in example:
            out["source"] = example[mixture.SOURCE]
        only = example.get(mixture.ONLY)
        shown = self._pictures if only is None else [m for m in self._pictures if m.name in only]
        # One number for all modalities: of tokens that are there for several crops it says which, so they stay aligned.
        example = look(example, shown, rng.random() if rng else 0.0)
        example = transforms.apply(self.transforms, example, train=rng is not None)
        for entry, m, variant, read, encode in self._readers:
            given = transforms.vary(example, variant) if variant else example
            out[entry] = read(m, given, rng, encode) if only is None or m.name in only else None
        return out

    def collate(self, chosen: list[dict]) -> dict:
        """Results of `choose` → a batch; checked and padded modality by modality, which is what makes it fast."""
        rows = np.array([c["row"] for c in chosen], np.int64)
        batch = {entry: kinds.of(m).pad(m, [c[entry] for c in chosen], rows) for entry, m, *_ in self._readers}
        if "source" in chosen[0]:
            batch["source"] = np.array([c["source"] for c in chosen], np.int32)
        return {"row": rows} | batch

    def nothing(self) -> dict:
        """As `choose` gives it, no example: `row` −1, and every entry absent."""
        return {"row": -1} | {entry: None for entry, *_ in self._readers}

    @functools.cached_property
    def _readers(self) -> list:
        """(entry of a batch, modality, variant, the `read` of its kind, text → ids where its tokenizer is known)."""
        return [
            (entry, m, variant, kinds.of(m).read, functools.partial(self._encode, m) if self._is_known(m) else None)
            for entry, m, variant in transforms.entries(self.transforms, self.modalities)
        ]

    def _is_known(self, m: Modality) -> bool:
        return m.text and m.tokenizer in self.tokenizers

    def _encode(self, m: Modality, text: str):
        how = {"keep_end": True} if m.name in self.ends else {}
        return self.tokenizers[m.tokenizer].encode(text, m.length, **how)

    @functools.cached_property
    def _pictures(self):
        return [m for m in self.modalities if m.pictures]


class _HostRows(grain.MapDataset):
    """The given rows of every global batch: what an example is does not depend on which host loads it."""

    def __init__(self, parent, batch_size, rows):
        super().__init__(parent)
        self._batch_size, self._rows = batch_size, [int(r) for r in rows]

    def __len__(self):
        return len(self._parent) // self._batch_size * len(self._rows)

    def __getitem__(self, index):
        if isinstance(index, slice):
            return self.slice(index)
        batch, at = divmod(index, len(self._rows))
        return self._parent[batch * self._batch_size + self._rows[at]]


class _ReadAndChoose(grain.transforms.RandomMap):
    def __init__(self, source, encoder):
        self._source, self._encoder = source, encoder

    def random_map(self, number, rng):
        return self._encoder.choose(self._encoder.read(self._source, number), rng)


def train_batches(source, encoder: Encoder, *, batch_size: int, seed: int, workers: int = 0, rows=None,
                  order=SHUFFLE) -> grain.IterDataset:  # fmt: skip
    """An endless stream of batches; its iterator's state is checkpointable.

    order: in which examples are read (`data_pipeline.orders`).
    rows: which rows of the global batch this host loads, ascending; None for all.
    workers: processes that load beside the trainer; 0 loads on threads.
    """
    if len(source) == 0:
        raise ValueError(f"{source!r} is empty: nothing to train on")
    check_transforms(encoder.transforms, source)
    check_fields(encoder.modalities, source, encoder.transforms)
    check_maps(encoder.modalities, source)
    dataset = order(source, seed).random_map(_ReadAndChoose(source, encoder))
    rows = range(batch_size) if rows is None else rows
    dataset = _HostRows(dataset, batch_size, rows).batch(len(rows), batch_fn=encoder.collate)
    dataset = dataset.to_iter_dataset(grain.ReadOptions(num_threads=2, prefetch_buffer_size=8))
    if not workers:
        return dataset
    if not flags.FLAGS.is_parsed():  # Grain's workers read absl flags, which a script or notebook never parses
        flags.FLAGS.mark_as_parsed()
    return dataset.mp_prefetch(grain.MultiprocessingOptions(num_workers=workers), _end_with_parent)


def _end_with_parent(*_):
    """A worker process ends when the program that started it does, by SIGKILL too.

    What is then left in shared memory goes with it: Python's resource tracker unlinks what no process holds any more.
    """

    def wait():
        multiprocessing.parent_process().join()
        os._exit(1)

    threading.Thread(target=wait, daemon=True).start()


def eval_batches(source, encoder: Encoder, *, batch_size: int):
    """Every example once, in order, in batches that differ by one example at most; invalid ones of `row` -1 fill them.

    So what is compared inside a batch, such as pairs, is compared with as many others in each.
    """
    count = -(-len(source) // batch_size)
    ends = [len(source) * i // count for i in range(count + 1)] if count else []
    for start, stop in itertools.pairwise(ends):
        rows = [encoder.choose(encoder.read(source, i), np.random.default_rng(i)) for i in range(start, stop)]
        rows += [rows[0] | encoder.nothing()] * (batch_size - len(rows))
        yield encoder.collate(rows)


def _map(function, tree):
    return {k: _map(function, v) for k, v in tree.items()} if isinstance(tree, dict) else function(tree)
