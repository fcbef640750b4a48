"""Every config is parsed whole; what the 4M configs say follows from the published numbers."""

import importlib
from pathlib import Path

import jax
import pytest

from data_pipeline.fourm import MOD7, MOD21, MODALITIES
from pretrain import build
from pretrain.restore import init_function

FILES = sorted(p.stem for p in (Path(__file__).parents[1] / "configs").glob("*.py"))


def config(name, arg=""):
    return importlib.import_module(f"configs.{name}").get_config(arg)


@pytest.mark.parametrize("name", [f for f in FILES if f not in ("__init__", "fourm_common", "contrastive_common")])
def test_configs_parse_and_make_their_objectives(name):
    run = build.parse(config(name, "rgb" if name == "emoji_tokenizer" else ""))
    assert build.objectives(run)


# Learning rate, warm-up and steps: ml-4m's released configs; 500e9 / (8192 · 256) and 500e9 / (4096 · 512) steps.
@pytest.mark.parametrize(
    "name, size, lr, steps, clip",
    [
        ("fourm_mod7", "B", 3.2e-3, 238419, 0.0), ("fourm_mod7", "XL", 6.4e-4, 238419, 3.0),
        ("fourm_mod21", "L", 1.6e-3, 238419, 0.0), ("fourm_mod21", "XL", 3.2e-4, 238419, 3.0),
        ("fourm_text2im", "B", 1.6e-3, 47684, 0.0), ("fourm_sr448", "L", 1.6e-3, 11921, 3.0),
    ],
)  # fmt: skip
def test_published_hyperparameters(name, size, lr, steps, clip):
    c = config(name, size)
    assert (c.optim.lr, c.steps, c.optim.clip) == (pytest.approx(lr), steps, clip)
    assert (c.optim.b2, c.optim.weight_decay) == (0.95, 0.05)


# Parameters of the published models with tied heads, in millions (counted in apple/ml-4m).
@pytest.mark.parametrize(
    "name, size, millions",
    [
        ("fourm_mod7", "tiny", 106), ("fourm_mod7", "B", 361), ("fourm_mod7", "XL", 3255), ("fourm_mod21", "tiny", 237),
        ("fourm_mod21", "B", 624), ("fourm_mod21", "L", 1272), ("fourm_mod21", "XL", 3956),
    ],
)  # fmt: skip
def test_published_sizes(name, size, millions):
    run = build.parse(config(name, size))
    objectives = build.objectives(run)
    shapes = jax.eval_shape(init_function(build.model(run, objectives), objectives, 0)[1])
    assert round(sum(x.size for x in jax.tree.leaves(shapes)) / 1e6) == millions


def test_modalities_are_those_of_the_papers():
    assert len(MOD7) == 8 and len(MOD21) == 19 and sum(MODALITIES[n].targets for n in MOD21) == 17
    # What the encoder of the reference embeds: sequences take 2 (L + 1) places.
    places = [2 * (m.length + 1) if m.kind == "sequence" else m.length for m in map(MODALITIES.get, MOD7)]
    assert sum(places) == 2204


def test_a_wrong_size_lists_the_sizes():
    with pytest.raises(ValueError, match=r"fourm_mod7.py:huge: .*tiny, small, B, L, XL"):
        config("fourm_mod7", "huge")
    with pytest.raises(ValueError, match="the argument must be empty or one of gelu"):
        config("fourm_tiny", "huge")
