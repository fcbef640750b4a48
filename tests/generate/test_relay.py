"""Several networks as one: the same as each by hand, one after another."""

import dataclasses

import jax
import numpy as np
import pytest
import tiny
from flax import nnx

from pretrain.generate.chain import Generator, Target
from pretrain.generate.relay import Relay

DATA = tiny.batch(3, missing=0.0)


def generator(modalities=tiny.MODALITIES, seed=0):
    graph, params = nnx.split(tiny.model(noise=0.5, modalities=modalities, seed=seed, embedded=()))
    return Generator(graph, params, modalities)


def spec(name, **changes):
    return dataclasses.replace(next(m for m in tiny.MODALITIES if m.name == name), **changes)


BASE = (spec("image"), spec("caption"))
FINER = (spec("image", targets=False), spec("depth"), spec("label", inputs=False))


def same(a, b):
    jax.tree.map(np.testing.assert_array_equal, a, b)


def test_one_network_alone_is_itself():
    made = generator()
    targets = [Target("image", steps=3), Target("caption"), Target("depth", steps=2)]
    same(Relay([made])(DATA, ["label"], targets, seed=4), made(DATA, ["label"], targets, seed=4))


def test_a_second_one_goes_on_from_what_the_first_made():
    base, finer = generator(BASE), generator(FINER, seed=1)
    targets = [Target("image", steps=3), Target("depth", steps=2), Target("label")]
    made = Relay([base, finer])(DATA, ["caption"], targets, seed=2, sample=1)
    image = base(DATA, ["caption"], targets[:1], seed=2, sample=1)
    depth = finer(DATA | image, ["image"], targets[1:2], seed=2, sample=1)
    label = finer(DATA | image | depth, ["image", "depth"], targets[2:], seed=2, sample=1)
    same(made, image | depth | label)


def test_what_is_refused():
    relay = Relay([generator(BASE), generator(FINER)])
    for given, target, message in (
        (
            ["caption"],
            "smell",
            "target 'smell': none of the models predicts it: they have image, caption, depth, label",
        ),
        (["caption"], "depth", "given 'caption': none of the models that make these targets reads it"),
    ):
        with pytest.raises(ValueError, match=message):
            relay(DATA, given, [Target(target)])
    with pytest.raises(ValueError, match=r"target 'image': .* they only read it"):
        Relay([generator(FINER)])(DATA, [], [Target("image")])
    with pytest.raises(ValueError, match=r"modality 'image': grid \(4, 4\) of 20 in one model, grid \(4, 5\) of 20 in"):
        Relay([generator(BASE), generator((spec("image", shape=(4, 5)), spec("depth")))])
