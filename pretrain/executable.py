"""A compiled step kept in a file, so that the first step on the machine starts at once.

JAX unpickles it, which runs whatever is in the file: it is opened only if its sha256 is the one that is given.
"""

import hashlib
import json
from pathlib import Path

import jax
from jax.experimental import serialize_executable
from jax.experimental.compilation_cache import compilation_cache

from pretrain.chips import chip_of
from pretrain.storage import write


def digest(lowered) -> str:
    """Of the program before compilation and of what compiles it."""
    return hashlib.sha256(f"{jax.__version__} {lowered.as_text()}".encode()).hexdigest()


def compile_afresh(lowered):
    """Compiles without JAX's persistent cache: what a CPU reads from there runs, but cannot be kept again."""
    enabled = jax.config.jax_enable_compilation_cache
    jax.config.update("jax_enable_compilation_cache", False)
    compilation_cache.reset_cache()  # JAX looks at the setting once
    try:
        return lowered.compile()
    finally:
        jax.config.update("jax_enable_compilation_cache", enabled)
        compilation_cache.reset_cache()


def save(path, lowered, compiled) -> str:
    """Keeps what `compile_afresh(lowered)` gave; returns what `load` takes, FILE@SHA256."""
    payload, _, _ = serialize_executable.serialize(compiled)
    devices = jax.tree.leaves(compiled.input_shardings)[0].device_set
    head = json.dumps(
        {"digest": digest(lowered), "jax": jax.__version__, "device": next(iter(devices)).device_kind}
    ).encode()
    held = head + b"\n" + payload
    write(path, held)
    return f"{path}@{hashlib.sha256(held).hexdigest()}"


def load(given, lowered, devices):
    """The step that `save` kept, for these devices. ValueError if it is not what `lowered` would compile to.

    given: FILE@SHA256.
    """
    path, _, wanted = str(given).rpartition("@")
    if not path:
        raise ValueError(
            f"--executable={given}: what is in such a file is run: give FILE@SHA256, as `python -m tools.plan --save` "
            "printed it, of a file that you made"
        )
    file = Path(path).expanduser()
    if not file.is_file():
        raise ValueError(f"--executable={path}: no such file; write it with `python -m tools.plan --save`")
    held = file.read_bytes()
    if hashlib.sha256(held).hexdigest() != wanted:
        raise ValueError(
            f"--executable={path}: its sha256 is not {wanted[:12]}…: it is damaged or another; make it again"
        )
    head, _, payload = held.partition(b"\n")
    try:
        about = json.loads(head)
        about["digest"], about["jax"], about["device"]
    except (ValueError, TypeError, KeyError) as e:
        raise ValueError(f"--executable={path}: no compiled step; write one with `python -m tools.plan --save`") from e
    if about["digest"] != digest(lowered):
        raise ValueError(
            f"--executable={path}: made by JAX {about['jax']} for another config, mesh, number of devices or version "
            "of this code: plan again with exactly these, or leave it out"
        )
    here = devices[0].device_kind
    if chip_of(here) != chip_of(about["device"]):
        raise ValueError(
            f"--executable={path}: made for {about['device']!r}, and this is {here!r}: plan again for it, "
            "or leave it out"
        )
    return serialize_executable.deserialize_and_load(
        payload, lowered.in_tree, lowered.out_tree, execution_devices=devices
    )
