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

from data_pipeline import mixture
from data_pipeline.checks import check_fields, check_maps, label_id
from data_pipeline.image import crop_settings, jitter_setting
from data_pipeline.padding import pad_ids, pad_pixels, pad_vectors
from data_pipeline.pictures import common_frame, outside, read_pictures, size_of
from data_pipeline.randaugment import RandAugment
from data_pipeline.spec import KINDS, PICTURES, Modality
from data_pipeline.text import render


@dataclasses.dataclass(frozen=True)
class Encoder:
    """Turns one raw or tokenized example into arrays, modality by modality.

    train=True draws crop, flip, language and order at random from the example's own generator; train=False is the
    deterministic form: the centre crop, the first language or caption, the given order.

    tokenizers: {name: TextTokenizer or HFTokenizer}; sequences of other tokenizers hold their ids already.
    min_scale, ratio, flip: of the crops of `pixels`, see `crop_settings`.
    jitter: (least, greatest) scale of large-scale jittering in place of the first two (`jitter_setting`); () for none.
    Beyond a picture lies grey, beyond a map of classes 255, no label, beyond other maps 0, unknown.
    randaugment: what is done to the crops of pictures, to all of an example alike.
    ends: texts that keep their end token where they are too long.
    """

    modalities: tuple[Modality, ...]
    tokenizers: dict
    train: bool
    min_scale: float = 0.8
    ratio: tuple[float, float] = (1.0, 1.0)
    flip: float = 0.0
    jitter: tuple[float, ...] = ()
    randaugment: RandAugment = RandAugment()
    ends: frozenset[str] = frozenset()

    def __post_init__(self):
        for m in self.modalities if self.train and self.randaugment.ops else ():
            if m.kind in ("grid", "video") or (m.kind == "pixels" and m.resample == "nearest"):
                raise ValueError(
                    f"randaugment.ops={self.randaugment.ops}: it moves pictures, and {m.name!r} would stay where it "
                    "is; set ops=0, and beside maps take jitter"
                )
        shapes = {m.name: m.shape[-3:-1] for m in self._pictures}
        if shapes:
            self._draw(0, common_frame(shapes, "modalities: shape"))

    def __call__(self, example: dict, rng: np.random.Generator) -> dict:
        """A batch of one example without its leading axis."""
        return _map(lambda x: x[0], self.collate([self.choose(example, rng)]))

    def read(self, source, index: int) -> dict:
        """An example, of sources that can tell fields apart with no more than what the modalities are made from."""
        return mixture.pick(source, index, *self._reads)

    @functools.cached_property
    def _reads(self) -> tuple[frozenset, frozenset]:
        """(all fields, those that are texts whatever they look like)."""
        texts = {m.field for m in self.modalities if m.kind == "sequence" and m.tokenizer in self.tokenizers}
        fields = {m.field.rpartition(":")[2] for m in self.modalities if m.kind in PICTURES}
        fields |= {m.field for m in self.modalities if m.kind not in PICTURES}
        fields |= {{"palette": "palettes"}.get(kind, kind) for kind in (text.partition(":")[0] for text in texts)}
        return frozenset({*fields, "crop_settings"}), frozenset(texts)

    def choose(self, example: dict, rng: np.random.Generator | None) -> dict:
        """What is drawn and made of one example: {modality: ids, rows of vectors or a picture; None if it lacks it}."""
        rng = rng if self.train else None
        # One crop number for all modalities: their tokens stay aligned.
        crop = rng.random() if rng else 0.0
        out = {"row": example["row"]}
        if mixture.SOURCE in example:
            out["source"] = example[mixture.SOURCE]
        only, nothing = example.get(mixture.ONLY), {"row": example["row"]}
        for m in self.modalities:
            given = example if only is None or m.name in only else nothing
            out[m.name] = MAKERS[m.kind](self, m, given, rng, crop)
        return out

    def collate(self, chosen: list[dict]) -> dict:
        """Results of `choose` → a batch; checked and padded modality by modality, which is what makes it fast."""
        rows = np.array([c["row"] for c in chosen], np.int64)
        pad = {"pixels": pad_pixels, "video": pad_pixels, "vectors": pad_vectors}
        batch = {m.name: pad.get(m.kind, pad_ids)([c[m.name] for c in chosen], m, rows) for m in self.modalities}
        if "source" in chosen[0]:
            batch["source"] = np.array([c["source"] for c in chosen], np.int32)
        return {"row": rows} | batch

    def _grid(self, m, example, rng, crop):
        crops = example.get(m.field)
        if crops is None:
            return None
        try:
            ids = crops[int(crop * len(crops))]
        except (TypeError, KeyError, IndexError) as e:
            raise _misfit(m, example, "a list of the ids of one crop or more") from e
        if getattr(ids, "ndim", 0) == 1:
            return ids
        # Ids without crops are those of the only one; a letter of a text, or one of many ids, is no crop.
        alone = np.ndim(ids) == 0 and m.length > 1
        if alone and (isinstance(crops, str) or len(crops) != m.length):
            raise _misfit(m, example, f"{m.length} ids, or a list of crops of {m.length} ids")
        return np.ravel(crops if alone else ids)

    _set = _grid

    def _labels(self, m, example, rng, crop):
        return None if example.get(m.field) is None else [label_id(m, example)]

    def _sequence(self, m, example, rng, crop):
        if m.tokenizer not in self.tokenizers:  # made into ids beforehand
            ids = example.get(m.field)
            return ids[: m.shape[0]] if getattr(ids, "ndim", 0) == 1 else _listed_ids(m, example)
        try:
            text = render(m.field, example, rng)
        except ValueError as e:
            raise ValueError(f"modality {m.name!r}: row {example['row']}: {e}") from e
        how = {"keep_end": True} if m.name in self.ends else {}
        return None if text is None else self.tokenizers[m.tokenizer].encode(text, m.length, **how)

    def _vectors(self, m, example, rng, crop):
        if example.get(m.field) is None:
            return None
        try:
            rows = np.atleast_2d(np.asarray(example[m.field], np.float32))[: m.length]
        except (ValueError, TypeError) as e:
            raise _misfit(m, example, f"rows of {m.width} numbers") from e
        if rows.ndim != 2 or rows.shape[1] != m.width:
            raise ValueError(
                f"modality {m.name!r}: shape={m.shape}, but row {example['row']} has {rows.shape}; mend the data, or "
                "set the shape"
            )
        return rows

    def _pixels(self, m, example, rng, crop):
        example = self._drawn(example, crop)
        frame = self._frame(example)
        given = example.get("crop_settings")  # those of its tokens: pixels show the same crop
        if given is not None:
            setting = given[int(crop * len(given))]
        else:
            setting = None if rng is None or frame is None else self._draw(crop, frame)
        pictures = read_pictures(example, m, setting, frame, crop, outside(m) if self.jitter else None)
        if pictures is not None and rng is not None and self.randaugment.ops:
            return self.randaugment(pictures, np.random.default_rng([int(crop * 2**32), 1]), outside(m))
        return pictures

    _video = _pixels

    def _drawn(self, example: dict, crop: float) -> dict:
        """The example with one picture of each list of them; a video shows them all."""
        for m in self._pictures:
            field = m.field.rpartition(":")[2]
            if isinstance(example.get(field), list):
                given = [picture for picture in example[field] if picture is not None]
                clip = m.kind == "video" and given
                if clip and len({np.shape(picture) for picture in given}) > 1:
                    raise _misfit(m, example, "pictures of one size, the frames of a clip")
                made = np.stack(given) if clip else given[int(crop * len(given))] if given else None
                example = example | {field: made}
        return example

    @functools.cached_property
    def _pictures(self):
        return [m for m in self.modalities if m.kind in PICTURES]

    def _draw(self, crop: float, frame):
        """The crop number → one row of `crop_settings` or a `jitter_setting`, the same for all pixels of an example."""
        height, width = self._pictures[0].shape[-3:-1]
        rng = np.random.default_rng(int(crop * 2**32))
        if self.jitter:
            return jitter_setting(rng, frame, self.jitter, flip=self.flip, aspect=width / height)
        options = dict(min_scale=self.min_scale, ratio=self.ratio, flip=self.flip, aspect=width / height)
        return crop_settings(rng, 2, frame, **options)[1]

    def _frame(self, example) -> tuple[int, int] | None:
        """(height, width) of the largest image of the example: crops are drawn in its pixels."""
        images = {m.name: example.get(m.field.rpartition(":")[2]) for m in self._pictures}
        for name, image in images.items():
            if not isinstance(image, np.ndarray | None):
                raise ValueError(
                    f"modality {name!r}: row {example['row']} holds {image!r:.40}: pixels need an image, uint8[H, W, C]"
                )
        shapes = {m.name: size_of(m, images[m.name]) for m in self._pictures if images[m.name] is not None}
        return common_frame(shapes, f"row {example['row']}") if shapes else None


def _listed_ids(m: Modality, example: dict):
    """The ids of a sequence that are no array."""
    ids = example.get(m.field)
    if isinstance(ids, str):
        raise ValueError(
            f"modality {m.name!r}: tokenizer={m.tokenizer!r}, but row {example['row']} holds the text "
            f"{ids[:20]!r}: store its ids, or set tokenizer='text' or the path of a tokenizer.json"
        )
    if not isinstance(ids, list | tuple | None):
        raise _misfit(m, example, "a list of ids")
    return None if ids is None else ids[: m.shape[0]]


def _misfit(m: Modality, example: dict, wanted: str) -> ValueError:
    field = m.field.rpartition(":")[2] if m.kind in PICTURES else m.field
    value = f"{example[field]!r:.60}".replace("\n", " ")
    return ValueError(
        f"modality {m.name!r}: row {example['row']} holds {field}={value}: it must be {wanted}; mend the data, or "
        "name another field"
    )


MAKERS = {kind: getattr(Encoder, f"_{kind}") for kind in KINDS}


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


def train_batches(source, encoder: Encoder, *, batch_size: int, seed: int, workers: int = 0,
                  rows=None) -> grain.IterDataset:  # fmt: skip
    """An endless, shuffled stream of batches; its iterator's state is checkpointable.

    rows: which rows of the global batch this host loads, ascending; None for all.
    workers: processes that load beside the trainer; 0 loads on threads.
    """
    if len(source) == 0:
        raise ValueError(f"{source!r} is empty: nothing to train on")
    check_fields(encoder.modalities, source)
    check_maps(encoder.modalities, source)
    dataset = source.stream(seed) if isinstance(source, mixture.Source) else mixture.shuffled(source, seed)
    dataset = dataset.random_map(_ReadAndChoose(source, encoder))
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
        nothing = rows[0] | {"row": -1} | {m.name: None for m in encoder.modalities}
        rows += [nothing] * (batch_size - len(rows))
        yield encoder.collate(rows)


def _map(function, tree):
    return {k: _map(function, v) for k, v in tree.items()} if isinstance(tree, dict) else function(tree)
