"""python -m tools.bench_generate [--tokens=256]: what a cache saves, and what a picture's steps cost.

A sequence of `--tokens` tokens written with the cache and, the decoder running over the whole prefix for every token,
without; the same tokens must come out. Then a grid of 196 tokens in 4, 16 and 64 steps, in a registry of 2 and of 21
modalities. Random weights; medians of `--repeats` turns, compiled before.
"""

import argparse
import dataclasses
import functools
import time

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from data_pipeline.fourm import MOD21, modalities
from data_pipeline.spec import Modality
from data_pipeline.text import TextTokenizer
from pretrain.generate.chain import Generator, Target
from pretrain.generate.parallel import Conditions
from pretrain.generate.sequence import write
from pretrain.models import encdec
from pretrain.models.network import Network
from pretrain.models.predictor import Predictor
from pretrain.models.tokens import TokenSet, Whole
from tools.synthetic import batch

PAIR = ("tok_rgb@224", "caption")
SIZE = dict(dim=384, heads=6, encoder_depth=6, decoder_depth=6)  # 4M's tiny


@functools.partial(jax.jit, static_argnames=("graph", "target"))
def write_uncached(graph, params, given, *, target: int, sentinel: int):
    """Greedy, the decoder over the whole prefix for every token."""
    network = nnx.merge(graph, params)
    model, size, length = Predictor(network), given.tokens.ids.shape[0], network.modalities[target].length
    encoded = model.encode(given)
    at = jnp.broadcast_to(jnp.arange(length), (size, length))

    def body(i, prefix):
        y = model.decode(encoded, TokenSet(prefix[:, :length], jnp.full_like(at, target), at, at <= i)).x
        y = jax.lax.dynamic_index_in_dim(y, i, 1, keepdims=False)
        return prefix.at[:, i + 1].set(model.logits(y, network.modalities[target].vocab).argmax(-1))

    return jax.lax.fori_loop(0, length, body, jnp.full((size, length + 1), sentinel))[:, 1:]


def network(names, tokens: int):
    """(specs, graph, parameters) of a model whose captions have so many tokens."""
    specs = tuple(Modality(**m) for m in modalities(names))
    specs = tuple(dataclasses.replace(m, shape=(tokens,)) if m.name == "caption" else m for m in specs)
    config = encdec.Config(**SIZE, dtype="float32")
    return specs, *nnx.split(Network(config, specs, (), nnx.Rngs(0)))


def seconds(run, repeats: int) -> float:
    """Median of `repeats` runs, after one that compiles."""
    jax.block_until_ready(run())
    took = []
    for _ in range(repeats):
        start = time.perf_counter()
        jax.block_until_ready(run())
        took.append(time.perf_counter() - start)
    return float(np.median(took))


def sequence(tokens: int, examples: int, repeats: int):
    """(seconds uncached, cached) of the same greedy tokens. No token ends the text."""
    specs, graph, params = network(PAIR, tokens)
    given = Whole(("tok_rgb@224",), specs)(batch(specs, examples, 0))
    keys, sentinel = jax.random.split(jax.random.key(0), examples), TextTokenizer.sentinel_start + 1
    conditions = Conditions(jax.tree.map(lambda x: x[:, None], given.tokens), {}, jnp.ones(1))

    def cached():
        return write(graph, params, conditions, keys, target=1, sentinel=sentinel, eos=-1)[0]

    def uncached():
        return write_uncached(graph, params, given, target=1, sentinel=sentinel)

    np.testing.assert_array_equal(cached(), uncached())
    return seconds(uncached, repeats), seconds(cached, repeats)


def grid(names, steps: int, examples: int, repeats: int) -> float:
    """Seconds that a picture's tokens take, given a caption."""
    specs, graph, params = network(names, 64)
    generator, data = Generator(graph, params, specs), batch(specs, examples, 0)
    return seconds(lambda: generator(data, ["caption"], [Target("tok_rgb@224", steps=steps)]), repeats)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tokens", type=int, default=256, help="of the sequence")
    parser.add_argument("--examples", type=int, default=4, help="in a batch")
    parser.add_argument("--repeats", type=int, default=3)
    args = parser.parse_args()
    print(f"4M's tiny, {args.examples} examples, fp32, {jax.devices()[0].device_kind}")
    slow, fast = sequence(args.tokens, args.examples, args.repeats)
    print(f"{args.tokens} tokens: {slow:.2f} s without a cache, {fast:.2f} s with it: {slow / fast:.1f} times faster")
    for steps in (4, 16, 64):
        few, many = (grid(names, steps, args.examples, args.repeats) for names in (PAIR, MOD21))
        print(f"196 tokens in {steps:2} steps: {few:.2f} s with 2 modalities, {many:.2f} s with {len(MOD21)}")


if __name__ == "__main__":
    main()
