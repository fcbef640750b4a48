"""From plain dicts to frozen dataclasses, strictly, without a rule about any one class. The only importlib.

An unknown, missing or mistyped key fails here with the key, the value and what was allowed.
"""

import dataclasses
import difflib
import functools
import importlib
import pkgutil
import types
import typing


@dataclasses.dataclass(frozen=True)
class Files:
    """Annotates a field whose value says a file of a package: dict(KEY=FILE, …what the class there takes).

    holds: the class: a dataclass of those keys; or one that takes a `Config` of them, which stands beside it, and the
    field gets what makes it of the rest.
    """

    package: str
    holds: str
    key: str


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
    return cls(**{k: cast(v, hints[k], f"{where}.{k}", given) for k, v in values.items()}, **own)


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
    if dataclasses.is_dataclass(hint):
        return value if isinstance(value, hint) else from_dict(hint, value, where, given)
    if origin is tuple:
        if not isinstance(value, (list, tuple)):
            raise TypeError(f"{where}={value!r}: expected a list")
        kinds = [args[0]] * len(value) if args[-1] is Ellipsis else args
        if len(kinds) != len(value):
            raise TypeError(f"{where}={value!r}: expected {len(kinds)} values")
        return tuple(cast(v, k, f"{where}[{i}]", given) for i, (v, k) in enumerate(zip(value, kinds)))
    if hint is float and type(value) is int:
        return float(value)
    expected = hint if isinstance(hint, (type, types.UnionType)) else object
    if not isinstance(value, expected) or (expected in (int, float) and isinstance(value, bool)):
        raise TypeError(f"{where}={value!r}: expected {getattr(hint, '__name__', hint)}, got {type(value).__name__}")
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


def load(package: str, name: str, key: str, holds: str):
    """The file `package.name`, which has a class `holds`; a typo lists the files that have one."""
    folder = importlib.import_module(package)
    files = [m.name for m in pkgutil.iter_modules(folder.__path__) if m.name not in ("base", "__main__")]
    module = importlib.import_module(f"{package}.{name}") if name in files else None
    if not hasattr(module, holds):
        known = [f for f in files if hasattr(importlib.import_module(f"{package}.{f}"), holds)]
        raise ValueError(f"{key}={name!r}: there is no {package}.{name}; there are: {', '.join(known)}")
    return module
