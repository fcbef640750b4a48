"""From plain dicts to frozen dataclasses, strictly, without a rule about any one class.

An unknown, missing or mistyped key fails here with the key, the value and what was allowed.
"""

import dataclasses
import difflib
import functools
import types
import typing

from data_pipeline.discover import Files, load


def from_dict(cls, values, where: str, given: dict | None = None):
    """A dataclass from a dict: every key must be a field.

    given: {type: value}: fields of these types are no keys of a config, but get the value, at any depth.
    """
    given = given or {}
    if not isinstance(values, dict):
        raise TypeError(f"{where}={values!r}: expected a dict with the keys of {cls.__name__}")
    hints = typing.get_type_hints(cls, include_extras=True)
    own = {f.name: given[hints[f.name]] for f in dataclasses.fields(cls) if _is_given(hints[f.name], given)}
    fields = {f.name: f for f in dataclasses.fields(cls) if f.name not in own}
    for key in values:
        if key not in fields:
            close = difflib.get_close_matches(key, fields, 1)
            hint = f"did you mean {close[0]!r}? " if close else ""
            raise ValueError(f"{where}.{key}={values[key]!r}: unknown key; {hint}allowed: {', '.join(fields)}")
    for name, f in fields.items():
        if name not in values and f.default is dataclasses.MISSING and f.default_factory is dataclasses.MISSING:
            raise ValueError(f"{where}.{name}: missing; {cls.__name__} needs it")
    values = {k: cast(v, hints[k], f"{where}.{k}", given) for k, v in values.items()}
    try:
        return cls(**values, **own)
    except ValueError as e:  # a class that serves several keys cannot know which of them it is
        if where.removeprefix("config.") in str(e):
            raise
        raise type(e)(f"{where}: {e}") from e


def _is_given(hint, given) -> bool:
    return typing.get_origin(hint) is not typing.Annotated and hint in given


def cast(value, hint, where: str, given: dict | None = None):
    """A value of a config as its field's type says. TypeError for one of another type."""
    if typing.get_origin(hint) is typing.Annotated:
        return from_file(value, hint.__metadata__[0], where, given)
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if origin is types.UnionType and type(None) in args:
        if value is None:
            return None
        (hint,) = (a for a in args if a is not type(None))
        origin, args = typing.get_origin(hint), typing.get_args(hint)
    if origin is types.UnionType and isinstance(value, dict):  # of which one may be a dataclass
        hint = next((a for a in args if dataclasses.is_dataclass(a)), hint)
    elif origin is types.UnionType and float in args and type(value) is int:
        return float(value)
    if dataclasses.is_dataclass(hint):
        return value if isinstance(value, hint) else from_dict(hint, value, where, given)
    if origin is tuple:
        if not isinstance(value, (list, tuple)):
            raise TypeError(f"{where}={value!r}: expected a list")
        kinds = [args[0]] * len(value) if args[-1] is Ellipsis else args
        if len(kinds) != len(value):
            raise TypeError(f"{where}={value!r}: expected {len(kinds)} values")
        return tuple(cast(v, k, f"{where}[{i}]", given) for i, (v, k) in enumerate(zip(value, kinds)))
    if origin is dict:
        if not isinstance(value, dict):
            raise TypeError(f"{where}={value!r}: expected a dict")
        return {cast(k, args[0], where, given): cast(v, args[1], f"{where}.{k}", given) for k, v in value.items()}
    if hint is float and type(value) is int:
        return float(value)
    expected = hint if isinstance(hint, (type, types.UnionType)) else object
    if not isinstance(value, expected) or (expected in (int, float) and isinstance(value, bool)):
        quoted = f"; as a flag with both quotes, '\"{value}\"'" if hint is str and type(value) in (int, float) else ""
        raise TypeError(
            f"{where}={value!r}: expected {getattr(hint, '__name__', hint)}, got {type(value).__name__}{quoted}"
        )
    return value


def from_file(value, files: Files, where: str, given: dict | None = None, default: str = ""):
    """What a dict says of a file of a package (`Files`); default: the file, if the dict names none."""
    if not isinstance(value, dict):
        raise TypeError(f"{where}={value!r}: expected a dict such as dict({files.key}=FILE)")
    name = cast(value.get(files.key, default), str, f"{where}.{files.key}")
    module = load(files.package, name, f"{where}.{files.key}", files.holds)
    held, rest = getattr(module, files.holds), {k: v for k, v in value.items() if k != files.key}
    if dataclasses.is_dataclass(held):
        return from_dict(held, rest, where, given)
    return functools.partial(held, from_dict(module.Config, rest, where, given))


def to_dict(value, left_out=()) -> dict:
    """The dict that `from_dict` reads as this dataclass; left_out: types of fields that it is given."""
    hints = typing.get_type_hints(type(value), include_extras=True)
    names = [f.name for f in dataclasses.fields(value) if not _is_given(hints[f.name], left_out)]
    return {name: _plain(getattr(value, name), hints[name], left_out) for name in names}


def _plain(value, hint, left_out):
    if typing.get_origin(hint) is typing.Annotated:
        held, rest = (value.func, value.args[0]) if isinstance(value, functools.partial) else (type(value), value)
        return {hint.__metadata__[0].key: held.__module__.rpartition(".")[2]} | to_dict(rest, left_out)
    if dataclasses.is_dataclass(value):
        return to_dict(value, left_out)
    args = typing.get_args(hint)
    if isinstance(value, dict):
        inner = args[1] if len(args) == 2 else None
        return {key: _plain(v, inner, left_out) for key, v in value.items()}
    if isinstance(value, (tuple, list)):
        alike = args[:1] * len(value) or [None] * len(value)
        hints = args if len(args) == len(value) and Ellipsis not in args else alike
        return [_plain(v, h, left_out) for v, h in zip(value, hints)]
    return value
