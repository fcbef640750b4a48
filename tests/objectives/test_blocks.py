"""Blocks of masked patches: exact counts, against a writing in NumPy, and what a batch makes of them."""

import math
import random

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from data_pipeline.spec import Modality
from pretrain.objectives.blocks import Blocked, Blocks, draw_blocks
from pretrain.ops.keys import named
from pretrain.step import example_keys

PICTURE = Modality("image", "pixels", (64, 64, 3), "image", patch=4, mean=(0.5,) * 3, std=(0.5,) * 3, targets=False)
EVA = Blocks(105)


def draw(how=EVA, grid=(16, 16), count=200, seed=0):
    keys = jax.random.split(jax.random.key(seed), count)
    return np.asarray(jax.jit(jax.vmap(lambda key: draw_blocks(key, grid, how)))(keys)), keys


@pytest.mark.parametrize(
    "how, grid",
    [
        (EVA, (16, 16)), (Blocks(26), (8, 8)), (Blocks(1, smallest=1), (2, 2)), (Blocks(3), (2, 2)),
        (Blocks(105, attempts=1), (16, 16)), (Blocks(255, smallest=100, aspect=1.0), (16, 16)), (Blocks(7), (2, 9)),
    ],
    ids=str,
)  # fmt: skip
def test_so_many_are_masked_of_every_picture(how, grid):
    mask, _ = draw(how, grid)
    assert mask.shape == (200, *grid) and (mask.sum((1, 2)) == how.count).all()
    assert len({m.tobytes() for m in mask}) > 1


def by_hand(how, grid, numbers, rest):
    """Loops over blocks, attempts and patches, with the numbers that they draw."""
    high, wide = grid
    mask, numbers = np.zeros(grid, bool), iter(numbers)
    while (left := how.count - int(mask.sum())) > 0:
        for _ in range(how.attempts):
            area, aspect, top, start = map(float, next(numbers))
            area = how.smallest + area * (left - how.smallest)
            ratio = math.exp(math.log(1 / how.aspect) * (2 * aspect - 1))
            h, w = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
            if h >= high or w >= wide:
                continue
            top, start = int(top * (high - h + 1)), int(start * (wide - w + 1))
            block = mask[top : top + h, start : start + w]
            if 0 < h * w - block.sum() <= left:
                block[...] = True
                break
        else:
            break
    left = how.count - int(mask.sum())
    order = [i for i in np.argsort(rest.ravel(), kind="stable") if not mask.ravel()[i]]
    mask.ravel()[order[:left]] = True
    return mask


@pytest.mark.parametrize("how", [EVA, Blocks(105, attempts=2), Blocks(60, smallest=16, aspect=0.5)], ids=str)
def test_equals_loops_in_numpy(how):
    masks, keys = draw(how, count=20)
    numbers = jax.jit(jax.vmap(lambda key, i: jax.random.uniform(jax.random.fold_in(key, i), (4,)), (None, 0)))
    for mask, key in zip(masks, keys):
        found = numbers(named(key, "blocks"), jnp.arange(400))
        rest = np.asarray(jax.random.uniform(named(key, "rest"), (16, 16)))
        np.testing.assert_array_equal(mask, by_hand(how, (16, 16), found, rest))


def test_masks_are_distributed_as_those_of_python_s_own_numbers():
    masks, _ = draw(count=2000)
    random.seed(0)
    rows = ([random.random() for _ in range(4)] for _ in iter(int, 1))
    rng = np.random.default_rng(0)
    others = np.stack([by_hand(EVA, (16, 16), rows, rng.random((16, 16))) for _ in range(2000)])
    np.testing.assert_allclose(masks.mean(0), others.mean(0), atol=0.06)
    joined = lambda m: (m[:, 1:] == m[:, :-1]).mean()
    assert joined(masks) == pytest.approx(joined(others), abs=0.01)
    assert joined(masks) > 0.75 > 0.53 > joined(rng.permuted(masks.reshape(2000, -1), axis=1).reshape(masks.shape))


def test_a_masked_patch_has_an_id_past_the_last_and_who_lacks_a_picture_loses_none():
    make, size = Blocked("image", EVA, (PICTURE,)), 6
    pixels = np.random.default_rng(0).integers(256, size=(size, 64, 64, 3), dtype=np.uint8)
    batch = {"image": {"pixels": pixels, "valid": np.arange(size) != 2}}
    found = jax.device_get(jax.jit(make)(batch, example_keys(0, 1, size)))
    tokens, chosen = found["shown"].tokens, found["chosen"]
    assert chosen.sum(1).tolist() == [105, 105, 0, 105, 105, 105]
    np.testing.assert_array_equal(tokens.ids, np.where(chosen, 256, np.arange(256)))
    np.testing.assert_array_equal(tokens.position, np.broadcast_to(np.arange(256), (size, 256)))
    np.testing.assert_allclose(found["shown"].dense["image"], PICTURE.rows(pixels), atol=1e-6)
    # By the key of the example alone: the half of a batch draws what the whole does, another step something else.
    half = {"image": jax.tree.map(lambda x: x[3:], batch["image"])}
    np.testing.assert_array_equal(make(half, example_keys(0, 1, size)[3:])["chosen"], chosen[3:])
    assert (np.asarray(make(batch, example_keys(0, 2, size))["chosen"]) != chosen)[0].any()
    assert (chosen[0] != chosen[1]).any()
