"""A compiled step kept in a file, so that the first step on the machine starts at once."""

import hashlib
import json
from pathlib import Path

import jax
from jax.experimental import serialize_executable
from jax.experimental.compilation_cache import compilation_cache

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


def save(path, lowered, compiled):
    """Keeps what `compile_afresh(lowered)` gave."""
    payload, _, _ = serialize_executable.serialize(compiled)
    head = json.dumps({"digest": digest(lowered), "jax": jax.__version__}).encode()
    write(path, head + b"\n" + payload)


def load(path, lowered, devices):
    """The step that `save` kept, for these devices. ValueError if it is not what `lowered` would compile to."""
    file = Path(path)
    if not file.exists():
        raise ValueError(f"--executable={path}: no such file; write it with `python -m tools.plan --save`")
    head, _, payload = file.read_bytes().partition(b"\n")
    try:
        about = json.loads(head)
        about["digest"], about["jax"]
    except (ValueError, TypeError, KeyError) as e:
        raise ValueError(f"--executable={path}: no compiled step; write one with `python -m tools.plan --save`") from e
    if about["digest"] != digest(lowered):
        raise ValueError(
            f"--executable={path}: made by JAX {about['jax']} for another config, mesh, number of devices or version "
            "of this code: plan again with exactly these, or leave it out"
        )
    return serialize_executable.deserialize_and_load(
        payload, lowered.in_tree, lowered.out_tree, execution_devices=devices
    )
