"""A name in a config is a file of a folder: found by its name, without a list beside the folder. The only importlib."""

import dataclasses
import functools
import importlib
import pkgutil


@dataclasses.dataclass(frozen=True)
class Files:
    """Annotates a field whose value says a file of a package: dict(KEY=FILE, …what the class there takes).

    holds: the class: a dataclass of those keys; or one that takes a `Config` of them, which stands beside it, and the
    field gets what makes it of the rest.
    """

    package: str
    holds: str
    key: str


@functools.cache
def files(package: str) -> tuple[str, ...]:
    """The names of a package's files, but those of what they share."""
    folder = importlib.import_module(package)
    return tuple(m.name for m in pkgutil.iter_modules(folder.__path__) if m.name not in ("base", "__main__"))


def load(package: str, name: str, key: str, holds: str):
    """The file `package.name`, which has a class `holds`; a typo lists the files that have one."""
    module = importlib.import_module(f"{package}.{name}") if name in files(package) else None
    if not hasattr(module, holds):
        known = ", ".join(holders(package, holds))
        raise ValueError(f"{key}={name!r}: there is no {package}.{name}; there are: {known}")
    return module


def holders(package: str, holds: str) -> dict[str, type]:
    """{file: its class `holds`} of the files of a package that have one."""
    modules = {name: importlib.import_module(f"{package}.{name}") for name in files(package)}
    return {name: getattr(module, holds) for name, module in modules.items() if hasattr(module, holds)}
