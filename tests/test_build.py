"""From config to objects: every mistake fails at once, with the key, the value and what was allowed."""

import copy
import json
import shutil
import types

import jax
import numpy as np
import pytest
import tiny
from ml_collections import ConfigDict

from configs import emoji_tokenizer
from data_pipeline.discover import load
from data_pipeline.sources import tokens
from pretrain import build, optim, program
from pretrain.data import check_tokens
from pretrain.evals.base import Context
from pretrain.evals.during import check_best
from pretrain.parameters import Roles, param, values

GRID = dict(name="code", kind="grid", shape=(2, 2), field="code", vocab="code", vocab_size=9, tokenizer="fsq")
TEXT = dict(name="label", kind="sequence", shape=(4,), field="group", vocab="text", vocab_size=8000, tokenizer="text")
BOTH = {"code": 1.0, "label": 1.0}
CONFIG = dict(
    steps=10,
    batch_size=8,
    modalities=[GRID, TEXT],
    model=dict(dim=16, heads=2, encoder_depth=1, decoder_depth=1, embed_dim=8),
    objectives=dict(masked=dict(input_tokens=(0, 4), target_tokens=(4, 4), mixture=[dict(inputs=BOTH, targets=BOTH)])),
    data=dict(source="emoji"),
)


def config(**changes):
    """CONFIG with keys set, `a__b` for a.b; a value of None removes the key."""
    out = copy.deepcopy(CONFIG)
    for path, value in changes.items():
        *parents, last = path.split("__")
        at = out
        for p in parents:
            at = at.setdefault(p, {})
        if value is None:
            del at[last]
        else:
            at[last] = value
    return out


def everything(config):
    """All that a run builds of its config before it compiles."""
    run = build.parse(config)
    objectives = build.objectives(run)
    build.models(run, objectives)
    build.encoder(run, train=True)
    build.source(run.data, run.data.train)
    return run


def test_a_good_config_builds():
    run = everything(CONFIG)
    assert run.modalities[0].shape == (2, 2) and run.model["dim"] == 16 and run.mesh == "ddp"
    assert build.parse(ConfigDict(CONFIG)) == run
    again = build.parse(build.from_json(build.to_json(ConfigDict(CONFIG))))
    assert build.objectives(again) == build.objectives(run) and again.modalities == run.modalities


@pytest.mark.parametrize(
    "changes, error, message",
    [
        (dict(step=3), ValueError, r"config.step=3: unknown key; did you mean 'steps'\? allowed: steps, batch_size"),
        (
            dict(optim__learning_rate=1.0),
            ValueError,
            "config.optim.learning_rate=1.0: unknown key; .*allowed: lr, warmup",
        ),
        (dict(model__dmi=3), ValueError, r"config.model.dmi=3: unknown key; did you mean 'dim'\?"),
        (dict(objectives__masked__coeff=3), ValueError, r"config.objectives.masked.coeff=3: .*did you mean 'coef'\?"),
        (dict(modalities=[GRID | {"size": 3}]), ValueError, r"config.modalities\[0\].size=3: unknown key"),
        (dict(steps=None), ValueError, "config.steps: missing; Run needs it"),
        (dict(data__source=None), ValueError, "config.data.source='': name one source there, or several"),
        (dict(objectives__masked__mixture=None), ValueError, "config.objectives.masked.mixture: missing"),
        (dict(steps="many"), TypeError, "config.steps='many': expected int, got str"),
        (dict(steps=1.5), TypeError, "config.steps=1.5: expected int, got float"),
        (dict(seed=True), TypeError, "config.seed=True: expected int, got bool"),
        (dict(optim__lr="1e-3"), TypeError, "config.optim.lr='1e-3': expected float, got str"),
        (dict(optim=3), TypeError, "config.optim=3: expected a dict with the keys of Config"),
        (dict(modalities=[GRID | {"shape": 4}]), TypeError, r"config.modalities\[0\].shape=4: expected a list"),
        (dict(objectives__masked__input_tokens=(1, 2, 3)), TypeError, r"input_tokens=\(1, 2, 3\): expected 2 values"),
        (dict(model__dim="wide"), TypeError, "config.model.dim='wide': expected int"),
        (dict(steps=0), ValueError, "config.steps=0: must be at least 1"),
        (dict(accum=3), ValueError, "config.batch_size=8: must be divisible by accum=3"),
        (dict(ema=1.0), ValueError, "config.ema=1.0"),
        (dict(objectives={}), ValueError, "list at least one objective"),
        (dict(objectives__maskd={}), ValueError, "config.objectives.maskd.objective='maskd': .*masked"),
        (dict(objectives__mine={"objective": "clip"}), ValueError, "objectives.mine.objective='clip': .*contrastive"),
        (dict(model__model="models.encdecc"), ValueError, "config.model.model='encdecc': .*there are: .*encdec"),
        (
            dict(data__source="webdata"),
            ValueError,
            "config.data.source='webdata': .*there are: coloured_emoji, emoji, .*files, graph, moving_emoji",
        ),
        (dict(data__source="files"), ValueError, "config.data.path='': the source 'files' reads a folder"),
        (
            dict(references=dict(teacher=dict(reference="ema", momentum=1.5))),
            ValueError,
            "config.references.teacher: momentum=1.5: must be at least 0 and below 1",
        ),
        (dict(references=dict(average=dict(reference="ema"))), ValueError, "config.references: 'average' is what"),
        (
            dict(objectives__masked__coef=dict(start=1.0, end=0.0, steps=0)),
            ValueError,
            "config.objectives.masked.coef: a ramp of steps=0",
        ),
        (
            dict(data__options={"missing": "skip"}),
            ValueError,
            "options.missing='skip': .*'emoji' takes no options",
        ),
        (
            dict(data__source="tar_tree", data__path="x", data__options={"shard": "a"}),
            ValueError,
            "config.data.options.shard='a': the source 'tar_tree' takes modalities, shards, missing",
        ),
        (
            dict(data__transforms=[dict(transform="crop", ratio=(1.0,))]),
            TypeError,
            r"config.data.transforms\[0\].ratio=\(1.0,\): expected 2 values",
        ),
        (dict(modalities=[GRID | {"tokenizer": ""}]), ValueError, "modality 'code': tokenizer=''"),
        (dict(modalities=[GRID, GRID]), ValueError, "'code' occurs twice"),
        (
            dict(modalities=[GRID, GRID | {"name": "b", "vocab_size": 7}]),
            ValueError,
            "modality 'b': vocab_size.*7.*but .*9",
        ),
        (
            dict(modalities=[GRID, TEXT | {"vocab_size": 99}]),
            ValueError,
            "'label': vocab_size=99, but the text tokenizer has 8000",
        ),
        (dict(model__heads=3), ValueError, "model.dim=16: must be divisible by model.heads=3"),
        (dict(model__dtype="fp8"), ValueError, "model.dtype='fp8': must be float32 or bfloat16"),
        (dict(mesh="fdsp"), ValueError, "mesh='fdsp': 'fdsp' is none of ddp, fsdp, hsdp, tp, strict, or AXIS=SIZE"),
        (dict(mesh="fsdp=0"), ValueError, "'fsdp=0' is none of"),
        (dict(log={"profile": "9:3"}), ValueError, "config.log.profile='9:3': write FIRST:LAST"),
        (dict(model__remat="all"), ValueError, "model.remat='all': must be one of none, dots, block"),
    ],
    ids=lambda x: str(x)[:50] if isinstance(x, dict) else "",
)
def test_mistakes(changes, error, message):
    with pytest.raises(error, match=message):
        everything(config(**changes))


@pytest.mark.parametrize(
    "part, values, error, message",
    [
        ("encoder", dict(network="patch"), ValueError, r"encoder.network='patch': there is no .*; .*patches"),
        ("quantizer", dict(), ValueError, r"model.quantizer.quantizer=''.* there are: .*fsq"),
        ("quantizer", dict(quantizer="fsq", level=(3,)), ValueError, r"model.quantizer.level=.*did you mean 'levels'"),
        ("decoder", "patches", TypeError, r"model.decoder='patches': expected a dict such as dict\(network=FILE\)"),
    ],
)  # fmt: skip
def test_parts_of_a_tokenizer(part, values, error, message):
    c = emoji_tokenizer.get_config("rgb-fsq").to_dict()
    found = build.model_config(build.parse(c))
    assert found.quantizer.args[0].levels == (4,) * 5
    c["model"][part] = values
    with pytest.raises(error, match=message):
        build.model_config(build.parse(c))


def test_loading_lists_real_files_only():
    """What is listed can be loaded and is what was asked for: every listed objective has an `Objective`."""
    with pytest.raises(ValueError) as e:
        load("pretrain.objectives", "masking", "key", "Objective")
    listed = str(e.value).split("there are: ")[1].split(", ")
    assert {"contrastive", "masked", "reconstruction"} <= set(listed) and "masking" not in listed
    assert all(hasattr(load("pretrain.objectives", name, "key", "Objective"), "Objective") for name in listed)


def test_a_batch_that_does_not_split_over_the_devices():
    mesh = types.SimpleNamespace(shape={"slice": 1, "data": 2, "fsdp": 2, "tensor": 1})
    program.check_batch(build.parse(config(batch_size=8, accum=2)), mesh)
    with pytest.raises(ValueError, match=r"batch_size=8: batch_size / accum = 2 must be divisible by slice × data × f"):
        program.check_batch(build.parse(config(accum=4)), mesh)


def test_optimizer_mistakes():
    own = {"model": {"kernel": param(jax.numpy.ones(3))}}
    params, roles = values(own), Roles(own)
    with pytest.raises(ValueError, match=r"optim.warmup=10: must be at least 0 and below steps=10"):
        optim.make_optimizer(optim.Config(warmup=10), params, 10, roles)
    with pytest.raises(ValueError, match=r"optim.rules: 'bias' matches no parameter; paths look like 'model/kernel'"):
        optim.make_optimizer(optim.Config(rules=(optim.Rule("bias", 0.0),)), params, 10, roles)


def evaluators(specs):
    run = build.parse(CONFIG)
    return build.evaluators(specs, Context(run, None, {}))


@pytest.mark.parametrize(
    "specs, message",
    [
        (dict(loss={}), "config.evals.loss.evaluator='loss': .*losses"),
        (dict(losses=dict(bach_size=3)), r"evals.losses.bach_size=3: unknown key; did you mean 'batch_size'\?"),
        (
            dict(retrieval=dict(pairs=[("code", "sound")])),
            "retrieval.pairs: no modality 'sound'; the run has code, label",
        ),
        (dict(knn=dict(modalities=["code"], labels=["group"], features="x")), "knn.features='x': must be pooled or z"),
        (dict(nll=dict(inputs=["x"], targets=["code"])), "nll.inputs: no modality 'x'"),
    ],
    ids=["file", "key", "retrieval", "knn", "nll"],
)
def test_evaluator_mistakes(specs, message):
    with pytest.raises(ValueError, match=message):
        evaluators(specs)


def test_best_metric_of_an_unknown_evaluation():
    made = evaluators(dict(val=dict(evaluator="losses", every=5)))
    check_best(build.Checkpoint(every=5, best="val/loss"), made)
    with pytest.raises(ValueError, match=r"checkpoint.best='test/loss'.*val"):
        check_best(build.Checkpoint(every=5, best="test/loss"), made)


def test_a_mixture_of_sources(token_store, tmp_path):
    c = tiny.emoji_run(token_store).to_dict()
    parts = [
        dict(source="tokens", path=str(token_store), weight=3.0),
        dict(source="emoji", weight=1.0, modalities=["caption"], splits=["train"]),
    ]
    c["data"] = dict(sources=parts)
    run = everything(c)
    check_tokens(run)
    source, held_out = (build.source(run.data, split) for split in ("train", "val"))
    assert source.shares == [0.75, 0.25] and len(source) == 64 + 1300 and len(held_out) == 16
    encode = build.encoder(run, train=False)
    batch = encode(source[64], np.random.default_rng(0))
    assert batch["row"] == 64 and batch["caption"]["valid"].any() and not batch["render3d"]["valid"].any()
    assert build.parse(build.from_json(build.to_json(ConfigDict(c)))).data == run.data

    for change, error, message in (
        (dict(source="emoji"), ValueError, "config.data.source='emoji': name one source there, or several in"),
        (dict(temperature=0.0), ValueError, r"config.data.temperature=0.0: must be above 0"),
        (dict(temperature=2.0), ValueError, r"weights=\[3.0\], temperature=2.0: give every source a weight"),
        (dict(sources=[parts[1]]), ValueError, "none of config.data.sources takes part in it"),
        (dict(sources=[parts[0], dict(source="emojis")]), ValueError, r"config.data.sources\[1\].source='emojis'"),
        (dict(sources=[parts[0], dict(source="files")]), ValueError, r"config.data.sources\[1\].path='': the source"),
        (dict(sources=[parts[0], dict(source="emoji", wieght=1.0)]), ValueError, "did you mean 'weight'"),
    ):
        with pytest.raises(error, match=message):
            run = build.parse(c | {"data": c["data"] | change})
            build.source(run.data, "val")

    other = tmp_path / "other"
    shutil.copytree(token_store, other)
    manifest = json.dumps(tokens.read_manifest(other)).replace('"digest": "toy"', '"digest": "another"')
    (other / "manifest.json").write_text(manifest)
    run = build.parse(c | {"data": dict(sources=[parts[0], parts[0] | {"path": str(other)}])})
    with pytest.raises(ValueError, match=r"sources\[1\].path=.*: its tokenizer 'rgb' is not that of "):
        check_tokens(run)
    only = parts[0] | {"path": str(other), "modalities": ["caption"]}
    check_tokens(build.parse(c | {"data": dict(sources=[parts[0], only])}))


def test_a_broken_config_of_a_workdir_is_named(tmp_path):
    (tmp_path / "config.json").write_text('{"broken')
    with pytest.raises(ValueError, match=r"config.json is broken \(.*\): bring it back from a copy"):
        build.read_run(tmp_path)
