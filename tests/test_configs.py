"""Every config is parsed whole; what the 4M configs say follows from the published numbers."""

import dataclasses
import importlib
import json
from pathlib import Path

import jax
import pytest
from flax import nnx
from toy_run import write_first

from data_pipeline.fourm import MOD7, MOD21, MODALITIES
from data_pipeline.transforms import crop, jitter, randaugment
from pretrain import build
from pretrain.inherit import fill
from pretrain.parameters import Roles, variables
from pretrain.phases import stages
from pretrain.restore import init_function

ROOT = Path(__file__).parents[1]
RUN_FILES = [p for p in sorted((ROOT / "configs").rglob("*.py")) if p.stem != "__init__" and "common" not in p.stem]


def config(name, *arg):
    return importlib.import_module(f"configs.{name}").get_config(*arg)


def dotted(path) -> str:
    return ".".join(path.relative_to(ROOT / "configs").with_suffix("").parts)


@pytest.mark.parametrize("path", [p for p in RUN_FILES if not p.stem.startswith("finetune")], ids=dotted)
def test_configs_parse_and_make_their_objectives(path, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_first(importlib.import_module(f"configs.{dotted(path)}"), "", tmp_path)
    for _, c in stages(config(dotted(path))):
        run = build.parse(c)
        objectives = build.objectives(run)
        assert objectives
        # And what they are may be written down and read again.
        files = {name: {"objective": type(o).__module__.rpartition(".")[2]} for name, o in objectives.items()}
        told = {name: json.loads(json.dumps(files[name] | build.keys_of(o))) for name, o in objectives.items()}
        again = build.objectives(dataclasses.replace(run, objectives=told))
        assert {name: files[name] | build.keys_of(o) for name, o in again.items()} == told


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
    c.load = "pretrained"
    run = build.parse(fill(c.to_dict(), build.parse(config("fourm_mod7", size.partition(",")[0]))))
    if name == "imagenet":
        first = size.endswith("in21k")
        assert run.optim.b2 == (0.95 if first else 0.999) and run.batch_size == (4096 if first else 1024)
        assert run.labels[0].vocab_size == (21841 if first else 1000)
    assert run.steps == pytest.approx(steps, abs=1) and run.optim.layer_decay == layer_decay
    assert run.optim.lr == pytest.approx(lr)
    assert run.modalities[0].trained_grid == (() if name == "imagenet" else (14, 14))
    encoder = build.encoder(run, train=True)
    assert (
        encoder.transforms
        == {
            "imagenet": (
                crop.Transform(0.08, (3 / 4, 4 / 3), 0.5),
                randaugment.Transform(ops=2, magnitude=9.0, std=0.5),
            ),
            "ade20k": (jitter.Transform((0.1, 2.0), 0.5),),
            "nyuv2": (crop.Transform(0.5, (1.0, 1.0), 0.5),),
        }[name]
    )
    ((_, objective),) = build.objectives(run).items()
    assert objective.drop_path == rate
    init = init_function(build.models(run, {"": objective}), {"": objective}, 0)[1]
    shapes = jax.eval_shape(init)
    split = build.split(run, shapes, init.roles)
    assert {w.rule.rank for w in split.ways.values() if w.rule.how == "lora"} == ({rank} if rank else set())
    own = jax.eval_shape(lambda: split.trained(jax.tree.map(lambda s: jax.numpy.zeros(s.shape), shapes), 0))
    share = sum(x.size for x in jax.tree.leaves(own["model"])) / sum(x.size for x in jax.tree.leaves(shapes["model"]))
    assert share < 0.06 if rank else share == 1


@pytest.mark.parametrize("arg", ["full", "last", "lora", "dora", "prompt", "adapter", "probe", "added"])
def test_finetuning_on_emoji_builds_on_the_quickstart(arg):
    c = config("finetune_emoji", arg)
    c.load = "pretrained"
    run = build.parse(fill(c.to_dict(), build.parse(config("emoji"))))
    ((name, objective),) = build.objectives(run).items()
    init = init_function(build.models(run, {name: objective}), {name: objective}, 0)[1]
    assert build.split(run, jax.eval_shape(init), init.roles).all == (arg in ("full", "added"))
    assert name == ("masked" if arg == "added" else "classification") and getattr(objective, "classes", 95) == 95


@pytest.mark.parametrize(
    "arg", ["rgb", "rgb-fsq", "gray-vq", "rgb-euclidean", "rgb-residual", "gray-lfq", "rgb-memcodes", "rgb-vq-conv"]
)
def test_emoji_tokenizers_have_ten_bits_a_patch(arg):
    run = build.parse(config("emoji_tokenizer", arg))
    model = nnx.eval_shape(lambda: build.models(run, build.objectives(run))["online"](nnx.Rngs(0))).autoencoder
    assert model.quantizer.vocab_size**model.quantizer.books == 1024
    assert model.grid == (8, 8 * model.quantizer.books) and model.encoder.grid == (8, 8)
    assert {p.rpartition("/")[2] for p, role in Roles(variables(model)).items() if role.statistics} == {
        "rgb": {"codebook", "counts", "sums"}, "gray-vq": {"codebook", "counts"}, "rgb-vq-conv": {"codebook", "counts"},
        "rgb-euclidean": {"codebook", "counts", "sums"}, "rgb-residual": {"codebook", "counts", "sums"},
    }.get(arg, set())  # fmt: skip


@pytest.mark.parametrize("arg", ["blue", "rgb-sfq", "rgb-vq-cnov", "rgb-vq-conv-x"])
def test_a_wrong_tokenizer_lists_the_parts(arg):
    with pytest.raises(
        ValueError,
        match=rf"{arg}: the argument must be one of rgb, gray, alone, .*kmeans, fsq, vq, .*patches, linear, conv",
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
    run = build.parse(config(name, size))
    assert (run.optim.lr, run.steps, run.optim.clip) == (pytest.approx(lr), steps, clip)
    assert (run.optim.b2, run.optim.weight_decay) == (0.95, 0.05)


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
    shapes = jax.eval_shape(init_function(build.models(run, objectives), objectives, 0)[1])
    assert round(sum(x.size for x in jax.tree.leaves(shapes)) / 1e6) == millions


def test_modalities_are_those_of_the_papers():
    assert len(MOD7) == 8 and len(MOD21) == 19 and sum(MODALITIES[n].targets for n in MOD21) == 17
    # What the encoder of the reference embeds: sequences take 2 (L + 1) places.
    places = [2 * (m.length + 1) if m.kind == "sequence" else m.length for m in map(MODALITIES.get, MOD7)]
    assert sum(places) == 2204


@pytest.mark.parametrize("path", RUN_FILES, ids=dotted)
def test_a_config_is_short_and_says_only_what_differs(path):
    """No key that `Run` has as well, but for the learning rate, which every run says."""
    assert len(path.read_text().splitlines()) < 120
    assert not list(repeated(config(dotted(path)).to_dict(), build.Run))


def repeated(values: dict, cls, where=""):
    """The keys that say what a dataclass has by default."""
    for field in dataclasses.fields(cls):
        if (key := f"{where}{field.name}") == "optim.lr" or field.name not in values:
            continue
        if dataclasses.is_dataclass(field.type):
            yield from repeated(values[field.name], field.type, f"{key}.")
        elif values[field.name] == field.default or (field.default_factory is dict and not values[field.name]):
            yield key


@pytest.mark.parametrize("path", RUN_FILES, ids=dotted)
def test_a_wrong_argument_is_named_with_those_that_there_are(path):
    with pytest.raises(ValueError, match=r"^configs/[a-z_0-9/]+\.py:nonsense: the argument must be [a-zA-Z]+"):
        config(dotted(path), "nonsense")


def test_a_wrong_size_lists_the_sizes():
    with pytest.raises(ValueError, match=r"finetune_imagenet.py:B,in22k: the argument must be SIZE, or SIZE,in21k"):
        config("finetune_imagenet", "B,in22k")
    with pytest.raises(ValueError, match=r"fourm_mod7.py:huge: .*tiny, small, B, L, XL"):
        config("fourm_mod7", "huge")
    with pytest.raises(ValueError, match="the argument must be empty or one of gelu"):
        config("fourm_tiny", "huge")
