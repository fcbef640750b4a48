"""Transforms of examples, one file each, named in order by `data.transforms`: what of an example is shown, and how."""

import numpy as np

from data_pipeline.view import VIEW


def apply(transforms, example: dict, train: bool) -> dict:
    """An example with its View → what all transforms make of it, one after another.

    Each draws from a stream of its own, given by the View's number and its place: what one draws changes no other.
    """
    view = example[VIEW]
    for place, transform in enumerate(transforms):
        if transform.shows and view.frame is None:
            continue
        rng = np.random.default_rng([int(view.number * 2**32), place]) if train else None
        example = transform(example, rng)
    return example


def check(transforms, modalities):
    """ValueError for transforms that undo each other, spoil a modality, or write a variant that nobody reads."""
    written = {}
    for transform in transforms:
        transform.check(modalities)
        for field in transform.writes:
            if field in written and field not in transform.reads:
                raise ValueError(
                    f"data.transforms: {name(transform)} draws {field.removeprefix(VIEW + '.')} again after "
                    f"{written[field]}: keep one of them"
                )
            base = field.partition("/")[0]
            if base != field and base != VIEW and not any(base in m.fields for m in modalities):
                raise ValueError(
                    f"data.transforms: {name(transform)} writes {field!r}, but no modality is made from {base!r}; they "
                    f"are made from {', '.join(dict.fromkeys(f for m in modalities for f in m.fields))}"
                )
        written |= dict.fromkeys(transform.writes, name(transform))


def entries(transforms, modalities) -> list:
    """(name in a batch, modality, variant) of all modalities, variant "", and then of their variants."""
    out = {m.name: (m.name, m, "") for m in modalities}
    for field in (f for transform in transforms for f in transform.writes if "/" in f):
        base, _, variant = field.partition("/")
        out |= {f"{m.name}/{variant}": (f"{m.name}/{variant}", m, variant) for m in modalities if base in m.fields}
    return list(out.values())


def vary(example: dict, variant: str) -> dict:
    """The example with the fields FIELD/VARIANT of a variant in the place of FIELD."""
    end = f"/{variant}"
    return example | {field.removesuffix(end): value for field, value in example.items() if field.endswith(end)}


def fields_after(transforms, known) -> frozenset[str]:
    """The fields of a source, and those that transforms write where it has something of what they read."""
    for transform in transforms:
        if not known.isdisjoint(transform.reads):
            known = known | frozenset(transform.writes)
    return frozenset(known)


def name(transform) -> str:
    """The file of a transform, which is what a config calls it."""
    return type(transform).__module__.rpartition(".")[2]
