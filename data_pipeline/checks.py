"""What can be known of data before anything is computed: fields that are not there, labels and maps that do not fit."""

import numpy as np

from data_pipeline import kinds, mixture, text, transforms
from data_pipeline.view import VIEW


def check_labels(labels, source, limit: int = 20_000):
    """Reads the labels of a source, of a large one of `limit` examples evenly, before anything is computed.

    ValueError if the source is empty, for a label outside its range, and if no example has any. Of label maps, which
    are images, it looks at a few.
    """
    if not len(source):
        raise ValueError(f"{source!r} is empty: nothing to train on or to evaluate")
    count = min(len(source), 64 if any(m.pictures for m in labels) else limit)
    fields = {m.field for m in labels}
    seen = dict.fromkeys((m.name for m in labels), 0)
    for number in _evenly(source, count):
        example = mixture.pick(source, number, fields)
        for m in labels:
            if example.get(m.field) is None:
                continue
            seen[m.name] += 1
            kinds.of(m).read(m, example, None, None)
    for name, found in seen.items():
        if not found:
            raise ValueError(f"labels {name!r}: none of {count} examples of {source!r} has its field; name another")


def check_maps(modalities, source, count: int = 64):
    """Reads the maps of some examples, before anything is trained: ValueError for one that its spec does not fit."""
    maps = [m for m in modalities if m.pictures and (m.vocab_size or m.range)]
    for number in _evenly(source, count) if maps else ():
        example = source[number]
        for m in maps:
            kinds.of(m).read(m, example, None, None)


def _evenly(source, count: int) -> list[int]:
    """At most `count` numbers of examples, from the first to the last."""
    return list(dict.fromkeys(np.linspace(0, len(source) - 1, min(count, len(source))).astype(int).tolist()))


def check_fields(modalities, source, given=()):
    """A field that no example of the source has is a typo. Only sources that say which `fields` they have can tell.

    given: the transforms that write fields for the modalities.
    """
    known = getattr(source, "fields", None)
    for m in modalities if known is not None else ():
        field, written, there = m.fields[0], kinds.of(m).written, transforms.fields_after(given, known)
        if field not in there and not (field in written and text.made_of(field) in there):
            forms = [form for form in written if text.made_of(form) in there]
            texts = f", or for text one of {', '.join(forms)}" if forms else ""
            raise ValueError(
                f"modality {m.name!r}: field={m.field!r} is unknown: use one of {', '.join(sorted(known))}{texts}"
            )


def check_transforms(given, source):
    """A field that a transform reads and neither the source has nor a transform before it writes is a typo."""
    known = getattr(source, "fields", None)
    for i, transform in enumerate(given if known is not None else ()):
        before = transforms.fields_after(given[:i], known)
        for field in transform.reads:
            if field not in (*before, *transform.optional) and not field.startswith(VIEW):
                raise ValueError(
                    f"data.transforms[{i}]: {transforms.name(transform)} reads the field {field!r}, which is unknown: "
                    f"use one of {', '.join(sorted(known))}"
                )
