"""Every config is parsed whole; what the 4M configs say follows from the published numbers."""

import importlib
from pathlib import Path

import jax
import pytest
from flax import nnx

from data_pipeline.fourm import MOD7, MOD21, MODALITIES
from pretrain import build
from pretrain.adapt import Split
from pretrain.inherit import fill
from pretrain.parameters import Roles, variables
from pretrain.restore import init_function

FILES = sorted(p.stem for p in (Path(__file__).parents[1] / "configs").glob("*.py"))


def config(name, arg=""):
    return importlib.import_module(f"configs.{name}").get_config(arg)


RUNS = [f for f in FILES if f != "__init__" and not f.endswith("_common")]


@pytest.mark.parametrize("name", [f for f in RUNS if not f.startswith("finetune")])
def test_configs_parse_and_make_their_objectives(name):
    run = build.parse(config(name, "rgb" if name == "emoji_tokenizer" else ""))
    assert build.objectives(run)


# Steps by epochs, pictures and batch; layer decay, drop-path and learning rate of the paper's table.
@pytest.mark.parametrize(
    "name, size, steps, lr, layer_decay, rate, rank",
    [
        ("imagenet", "B", 50 * 1281167 / 1024, 4e-4, 0.75, 0.1, 0), ("imagenet", "XL", 25023, 4e-4, 0.85, 0.4, 0),
        ("imagenet", "B,in21k", 20 * 14197122 / 4096, 16e-4, 0.75, 0.1, 0),
        ("imagenet", "XL,in21k", 69322, 8e-4, 0.85, 0.4, 0),
        ("ade20k", "L", 64 * 20210 / 64, 2e-4, 0.85, 0.2, 0), ("ade20k", "XL", 40420, 3e-4, 0.95, 0.3, 64),
        ("nyuv2", "B", 795000 / 128, 1e-4, 0.75, 0.0, 0), ("nyuv2", "XL", 795000 / 16, 5e-5, 0.9, 0.0, 8),
    ],
)  # fmt: skip
def test_finetuning_recipes_build_on_4m(name, size, steps, lr, layer_decay, rate, rank):
    c = config(f"finetune_{name}", size)
    c.init = "pretrained"
    run = build.parse(fill(c.to_dict(), build.parse(config("fourm_mod7", size.partition(",")[0]))))
    if name == "imagenet":
        first = size.endswith("in21k")
        assert run.optim.b2 == (0.95 if first else 0.999) and run.batch_size == (4096 if first else 1024)
        assert run.labels[0].vocab_size == (21841 if first else 1000)
    assert run.steps == pytest.approx(steps, abs=1) and run.optim.layer_decay == layer_decay
    assert run.optim.lr == pytest.approx(lr)
    assert run.modalities[0].trained_grid == (() if name == "imagenet" else (14, 14))
    encoder = build.encoder(run, train=True)
    assert (encoder.randaugment.ops, encoder.randaugment.magnitude, encoder.randaugment.std) == (
        (2, 9.0, 0.5) if name == "imagenet" else (0, 9.0, 0.5)
    )
    assert encoder.jitter == ((0.1, 2.0) if name == "ade20k" else ())
    ((_, objective),) = build.objectives(run).items()
    assert objective.drop_path == rate
    shapes = jax.eval_shape(init_function(build.model(run, {"": objective}), {"": objective}, 0)[1])
    split = Split(run.adapt, shapes)
    assert {r.rank for r in split.ways.values() if r.how == "lora"} == ({rank} if rank else set())
    own = jax.eval_shape(lambda: split.own(jax.tree.map(lambda s: jax.numpy.zeros(s.shape), shapes), 0))
    share = sum(x.size for x in jax.tree.leaves(own["model"])) / sum(x.size for x in jax.tree.leaves(shapes["model"]))
    assert share < 0.06 if rank else share == 1


@pytest.mark.parametrize("arg", ["full", "last", "lora", "prompt", "adapter", "probe", "added"])
def test_finetuning_on_emoji_builds_on_the_quickstart(arg):
    c = config("finetune_emoji", arg)
    c.init = "pretrained"
    run = build.parse(fill(c.to_dict(), build.parse(config("emoji"))))
    ((name, objective),) = build.objectives(run).items()
    assert name == ("masked" if arg == "added" else "classification") and getattr(objective, "classes", 95) == 95


@pytest.mark.parametrize(
    "arg", ["rgb", "rgb-fsq", "gray-vq", "rgb-euclidean", "rgb-residual", "gray-lfq", "rgb-memcodes", "rgb-vq-conv"]
)
def test_emoji_tokenizers_have_ten_bits_a_patch(arg):
    run = build.parse(config("emoji_tokenizer", arg))
    model = nnx.eval_shape(lambda: build.model(run, build.objectives(run))(nnx.Rngs(0)))
    assert model.quantizer.vocab_size**model.quantizer.books == 1024
    assert model.grid == (8, 8 * model.quantizer.books) and model.encoder.grid == (8, 8)
    assert {p.rpartition("/")[2] for p, role in Roles(variables(model)).items() if role.statistics} == {
        "rgb": {"codebook", "counts", "sums"}, "gray-vq": {"codebook", "counts"}, "rgb-vq-conv": {"codebook", "counts"},
        "rgb-euclidean": {"codebook", "counts", "sums"}, "rgb-residual": {"codebook", "counts", "sums"},
    }.get(arg, set())  # fmt: skip


@pytest.mark.parametrize("arg", ["blue", "rgb-sfq", "rgb-vq-cnov", "rgb-vq-conv-x"])
def test_a_wrong_tokenizer_lists_the_parts(arg):
    with pytest.raises(
        ValueError, match=rf"{arg}: must be one of rgb, gray, alone, .*kmeans, fsq, vq, .*patches, linear, conv"
    ):
        config("emoji_tokenizer", arg)


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
    with pytest.raises(ValueError, match=r"finetune_imagenet.py:B,in22k: write SIZE, or SIZE,in21k"):
        config("finetune_imagenet", "B,in22k")
    with pytest.raises(ValueError, match=r"fourm_mod7.py:huge: .*tiny, small, B, L, XL"):
        config("fourm_mod7", "huge")
    with pytest.raises(ValueError, match="the argument must be empty or one of gelu"):
        config("fourm_tiny", "huge")
