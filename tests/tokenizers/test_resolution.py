"""A tokenizer that learned at one resolution goes on at another: `config.load` takes all of it along."""

import jax
import numpy as np
import pytest

from configs import emoji_tokenizer
from pretrain.restore import load_tokenizer, restore
from pretrain.train import train


def config(side, **more):
    c = emoji_tokenizer.get_config("rgb-fsq")
    c.modalities = [{**c.modalities[0], "shape": (side, side, 3)}]
    for part in ("encoder", "decoder"):
        c.model[part].dim, c.model[part].patch = 16, 8
    c.model.quantizer.levels = (4, 4, 4)
    c.batch_size, c.steps, c.optim.warmup, c.evals, c.checkpoint.every, c.log.every = 8, 20, 1, {}, 20, 20
    c.update(more)
    return c


@pytest.mark.slow
def test_a_tokenizer_goes_on_at_another_resolution(tmp_path, capsys):
    side = 64
    train(config(32), tmp_path / "small")
    capsys.readouterr()
    large = config(side, steps=1, load=str(tmp_path / "small"))
    large.optim.update(lr=0.0, warmup=0)
    train(large, tmp_path / "large")
    said = capsys.readouterr().out
    assert "starting from" in said and " 0 new" in said, said
    theirs, ours = (restore(tmp_path / name).params["model"] for name in ("small", "large"))
    jax.tree.map(np.testing.assert_array_equal, theirs, ours)
    small, large = (load_tokenizer(tmp_path / name) for name in ("small", "large"))
    pictures = np.random.default_rng(0).integers(0, 256, (3, side, side, 3), np.uint8)
    half = side // 2
    # A patch's id hangs on nothing but the patch: a large picture has those of its quarters.
    quarter = lambda y, x: small.encode(pictures[:, y : y + half, x : x + half]).reshape(3, 4, 4)
    rows = [[quarter(y, x) for x in (0, half)] for y in (0, half)]
    np.testing.assert_array_equal(large.encode(pictures).reshape(3, 8, 8), np.block(rows))
    assert large.decode(large.encode(pictures)).shape == pictures.shape
