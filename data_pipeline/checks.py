"""What can be known of data before anything is computed: fields that are not there, labels and maps that do not fit."""

import numpy as np

from data_pipeline import mixture
from data_pipeline.pictures import read_pictures
from data_pipeline.spec import PICTURES, Modality
from data_pipeline.text import FIELDS


def label_id(m: Modality, example: dict) -> int:
    """The number of an example's class; ValueError if the spec has no such class."""
    value = example[m.field]
    found = m.numbers.get(value if isinstance(value, str) else None) if m.classes else value
    if isinstance(found, (int, np.integer)) and not isinstance(found, bool) and 0 <= found < m.vocab_size:
        return int(found)
    allowed = f"one of its classes {', '.join(m.classes[:3])}, …" if m.classes else f"a number of 0…{m.vocab_size - 1}"
    raise ValueError(
        f"labels {m.name!r}: row {example['row']} has {m.field}={value!r}: must be {allowed}; mend the data, or set "
        "classes and vocab_size"
    )


def check_labels(labels, source, limit: int = 20_000):
    """Reads the labels of a source, of a large one of `limit` examples evenly, before anything is computed.

    ValueError if the source is empty, for a label outside its range, and if no example has any. Of label maps, which
    are images, it looks at a few.
    """
    if not len(source):
        raise ValueError(f"{source!r} is empty: nothing to train on or to evaluate")
    count = min(len(source), 64 if any(m.kind == "pixels" for m in labels) else limit)
    fields = {m.field for m in labels}
    seen = dict.fromkeys((m.name for m in labels), 0)
    for number in _evenly(source, count):
        example = mixture.pick(source, number, fields)
        for m in labels:
            if example.get(m.field) is None:
                continue
            seen[m.name] += 1
            if m.kind == "labels":
                label_id(m, example)
            elif m.kind == "pixels":
                read_pictures(example, m, None, None)
    for name, found in seen.items():
        if not found:
            raise ValueError(f"labels {name!r}: none of {count} examples of {source!r} has its field; name another")


def check_maps(modalities, source, count: int = 64):
    """Reads the maps of some examples, before anything is trained: ValueError for one that its spec does not fit."""
    maps = [m for m in modalities if m.kind == "pixels" and (m.vocab_size or m.range)]
    for number in _evenly(source, count) if maps else ():
        example = source[number]
        for m in maps:
            read_pictures(example, m, None, None)


def _evenly(source, count: int) -> list[int]:
    """At most `count` numbers of examples, from the first to the last."""
    return list(dict.fromkeys(np.linspace(0, len(source) - 1, min(count, len(source))).astype(int).tolist()))


def check_fields(modalities, source):
    """A field that no example of the source has is a typo. Only sources that say which `fields` they have can tell."""
    known = getattr(source, "fields", None)
    for m in modalities if known is not None else ():
        field = m.field.rpartition(":")[2] if m.kind in PICTURES else m.field
        if field not in known and not (m.kind == "sequence" and field in FIELDS):
            texts = f", or for text one of {', '.join(FIELDS)}" if m.kind == "sequence" else ""
            raise ValueError(
                f"modality {m.name!r}: field={m.field!r} is unknown: use one of {', '.join(sorted(known))}{texts}"
            )
