"""The flag `--config`, and `--config.a.b=value` for any key, whether the config file lists it or not.

`build.parse` then says which keys there are: defaults live there alone.
"""

import importlib.resources
import os
import re
import sys

from absl import flags
from ml_collections import ConfigDict, config_flags


class _Parser(flags.ArgumentParser):
    """Loads a config file, and makes room for the keys that the command line sets inside."""

    def __init__(self, loader):
        self._loader = loader

    def parse(self, argument):
        if not isinstance(argument, str):
            return self._loader.parse(argument)
        path = find(argument)
        try:
            config = self._loader.parse(path)
        except RecursionError as e:
            raise ValueError("its get_config calls itself without end") from e
        if not isinstance(config, ConfigDict):
            raise ValueError(f"its get_config gives a {type(config).__name__}: it must give a ConfigDict")
        for flag in sys.argv:
            if found := re.match(r"--?config\.([^=]+)", flag):
                self._make_room(config, found[1])
        return config

    @staticmethod
    def _make_room(config: ConfigDict, key: str):
        *parents, last = key.split(".")
        at = config
        for i, name in enumerate((*parents, last)):
            if not re.fullmatch(r"\w+", name):
                return  # places in lists, `modalities[0]`, are ml_collections' own
            if not isinstance(at, ConfigDict):
                above = ".".join(key.split(".")[:i])
                raise ValueError(f"--config.{key}: config.{above} is {at!r:.40}, which has no key {name!r}")
            if i < len(parents):
                if name not in at:
                    at[name] = ConfigDict()
                at = at[name]

    def flag_type(self):
        return "config"


def find(argument: str) -> str:
    """FILE.py[:ARGUMENT] of one's own, or NAME[:ARGUMENT] of those that come with the project, → FILE.py[:ARGUMENT].
    ValueError if there is neither."""
    name, colon, rest = argument.partition(":")
    own = os.path.expanduser(name)
    if os.path.isfile(own):
        return own + colon + rest
    bundled = importlib.resources.files("configs") / f"{name.removeprefix('configs/').removesuffix('.py')}.py"
    if not bundled.is_file():
        raise ValueError(
            "no such file; give FILE.py or FILE.py:ARGUMENT, or a config that comes with the project, such as emoji or "
            "systems/m3pt:tiny"
        )
    return f"{bundled}{colon}{rest}"


def define(help_string: str, values: flags.FlagValues = flags.FLAGS):
    """Defines the flag; its holder's `value` is the ConfigDict."""
    how = dict(lock_config=False, accept_new_attributes=True, flag_values=values)
    holder = config_flags.DEFINE_config_file("config", None, help_string, **how)
    values["config"].parser = _Parser(values["config"].parser)
    return holder
