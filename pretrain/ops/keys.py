"""Random keys by name: what one thing draws does not depend on what else draws, nor on any order."""

import zlib

import jax


def named(keys, *names: str):
    """The key of a name, or of a name within a name; of one key, or of an array of them, such as one an example."""
    for name in names:
        number = zlib.crc32(name.encode())
        fold = lambda key, number=number: jax.random.fold_in(key, number)
        for _ in range(keys.ndim):
            fold = jax.vmap(fold)
        keys = fold(keys)
    return keys
