"""Pictures that are derived from the crop of a field, one file each: `NAME:FIELD` names one. A file has
`derive(image)`: uint8[H, W, C] → uint8[H, W, channels]."""

from data_pipeline.discover import load


def derive(field: str):
    """What `NAME:FIELD` does to a crop; None of a plain FIELD. ValueError for a name that no file has."""
    name, colon, _ = field.partition(":")
    return load("data_pipeline.derived", name, f"field={field!r}: what is derived", "derive").derive if colon else None
