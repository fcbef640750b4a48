"""The two forms in which 4M's files hold a network: tensors by name, and its constructor's arguments.

One safetensors file whose metadata holds the arguments as text, and a folder of `config.json` and `model.safetensors`.
What is written serves both.
"""

import ast
import contextlib
import json
from pathlib import Path

import numpy as np

FILE = "model.safetensors"


def read_names(path) -> set[str]:
    """The names of the tensors of either form."""
    with _opened(path) as f:
        return set(f.keys())


def read_file(path) -> tuple[dict, dict[str, np.ndarray]]:
    """(config, tensors) of either published form."""
    path = Path(path)
    with _opened(path) as f:
        state, config = {k: f.get_tensor(k) for k in f.keys()}, f.metadata() or {}
    if path.is_dir() and (path / "config.json").exists():
        try:
            return json.loads((path / "config.json").read_text()), state
        except json.JSONDecodeError as e:
            raise ValueError(f"{path / 'config.json'}: not valid JSON ({e}); copy or download it again") from e
    return {k: _value(v) for k, v in config.items()}, state


@contextlib.contextmanager
def _opened(path):
    from safetensors import SafetensorError, safe_open

    path = Path(path)
    file = path / FILE if path.is_dir() else path
    if not file.exists():
        raise FileNotFoundError(f"{file}: no such file; give a 4M .safetensors file, or a folder with config.json")
    try:
        with safe_open(file, "numpy") as f:
            yield f
    except SafetensorError as e:
        raise ValueError(f"{file}: not a whole safetensors file ({e}); copy or download it again") from e


def _value(text: str):
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return text


def write_file(out, config: dict, state: dict) -> Path:
    """Both forms in one new folder. FileExistsError if something is there."""
    from safetensors.numpy import save_file

    out = Path(out)
    if out.exists() and any(out.iterdir()):
        raise FileExistsError(f"{out} is not empty: remove it or write elsewhere")
    out.mkdir(parents=True, exist_ok=True)
    save_file(state, out / FILE, metadata={k: str(v) for k, v in config.items()})
    (out / "config.json").write_text(json.dumps(config, indent=2) + "\n")
    return out


def nest(flat: dict) -> dict:
    """{"a/b": x} → {"a": {"b": x}}."""
    out = {}
    for path, value in flat.items():
        *parents, last = path.split("/")
        node = out
        for p in parents:
            node = node.setdefault(p, {})
        node[last] = value
    return out


def some(names) -> str:
    """The first few of the names, for a message."""
    return ", ".join(names[:4]) + (f" and {len(names) - 4} more" if len(names) > 4 else "")
