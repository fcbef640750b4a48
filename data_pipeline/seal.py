"""A JSON object that holds its own sha256, so that a changed value does not pass for what was written."""

import hashlib
import json

KEY = "sha256"


def seal(values: dict) -> dict:
    """The same, with the sha256 of all else in it."""
    return values | {KEY: _digest(values)}


def unseal(values: dict) -> dict:
    """What was sealed; what never was stays as it is. ValueError if it is not what it was."""
    if KEY not in values:
        return values
    held = {k: v for k, v in values.items() if k != KEY}
    if values[KEY] != _digest(held):
        raise ValueError("it was changed since it was written: it has another sha256 than it says")
    return held


def _digest(values: dict) -> str:
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()
