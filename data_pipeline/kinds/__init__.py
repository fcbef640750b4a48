"""Kinds of modality, one file each: what a modality's shape means, and how a field becomes its part of a batch."""

import functools

from data_pipeline import discover


def names() -> tuple[str, ...]:
    """All kinds, which are the files of this folder."""
    return discover.files(__name__)


@functools.cache
def load(name: str):
    """The one `Kind` of a file; ValueError, which lists the files, if there is none."""
    return discover.load(__name__, name, "kind", "Kind").Kind()


def of(m):
    """The `Kind` of a modality."""
    return load(m.kind)
