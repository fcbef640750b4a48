"""Fine-tuning through the trainer: what is trained, what is saved, how it is opened again, and what is refused."""

import re
import shutil

import jax
import laws
import numpy as np
import pytest
import tiny
from ml_collections import ConfigDict

from configs import finetune_emoji, finetune_imagenet
from data_pipeline.sources import emoji
from pretrain import build, inherit, restore
from pretrain.checkpoint import load_params
from pretrain.interop.torch import export
from pretrain.parameters import path_str
from pretrain.program import Program
from pretrain.step import accumulate, evaluate_objectives, example_keys
from pretrain.train import train
from tools.export import compare


@pytest.fixture(scope="module")
def pretrained(token_store, tmp_path_factory):
    """A workdir of one step of the tiny masked run, of two blocks."""
    c, workdir = tiny.emoji_run(token_store, terms=("masked",)), tmp_path_factory.mktemp("pretrained") / "run"
    c.steps, c.optim.warmup, c.model.encoder_depth = 1, 0, 2
    train(c, workdir)
    return workdir


@pytest.fixture
def config(token_store, pretrained):
    def make(arg, **changes):
        c = finetune_emoji.get_config(arg)
        c.load, c.data.path, c.evals = str(pretrained), str(token_store), {}
        c.steps, c.batch_size, c.optim.warmup, c.log.every = 2, 8, 0, 1
        if arg != "added":
            c.objectives.classification.pool = "mean"  # the tiny model learned no queries
        with c.unlocked():
            c.update(changes)
        return c

    return make


def flat(tree):
    return {path_str(p): np.asarray(x) for p, x in jax.tree_util.tree_leaves_with_path(tree)}


def run(config, workdir):
    return train(inherit.read(config, workdir), workdir)


HEAD = {f"objective/classification/{k}" for k in ("bias", "kernel", "norm/bias", "norm/scale")}


@pytest.mark.parametrize(
    "arg", ["lora", *(pytest.param(a, marks=pytest.mark.slow) for a in ("dora", "prompt", "adapter", "last"))]
)
def test_the_base_keeps_every_bit_and_is_not_saved(arg, config, pretrained, tmp_path):
    digest, before = (f(restore.restore(pretrained).params) for f in (restore.digest, flat))
    before["model/embed/modality"] = before["model/embed/modality"][:1]  # the caption is gone
    run(config(arg, ema=0.5), tmp_path / "run")
    own, after = flat(load_params(tmp_path / "run")), flat(restore.restore(tmp_path / "run").params)
    assert own.keys() >= HEAD and after["objective/classification/bias"].any()
    ours = {p for p in own if not p.startswith("objective/")}
    for path in after.keys() & before.keys():
        if path in ours or f"{path}/lora_a" in ours:
            continue
        np.testing.assert_array_equal(after[path], before[path], err_msg=path)
    if arg == "prompt":
        assert ours == {"model/encoder/registers"} and after["model/encoder/registers"].shape == (16, 32)
    elif arg == "adapter":
        assert ours == {
            f"model/encoder/blocks/adapters/{i}/{a}/{b}"
            for i in ("attn", "mlp")
            for a in ("down", "up")
            for b in ("bias", "kernel")
        }
        assert all(own[p].any() for p in ours)
    elif arg == "last":
        assert "model/encoder/norm/scale" in ours and not any("embed" in p for p in ours)
        for path in (p for p in ours if p.startswith("model/encoder/blocks/")):
            np.testing.assert_array_equal(after[path][:1], before[path][:1])
            np.testing.assert_array_equal(after[path][1:], own[path])
            assert (own[path] != before[path][1:]).any(), path
    else:
        kernels = [p for p in before if re.search("^model/encoder/.*kernel$", p)]
        more = {"lora": [], "dora": ["magnitude"]}[arg]
        assert ours == {f"{k}/{name}" for k in kernels for name in ("lora_a", "lora_b", *more)} and len(kernels) == 5
        for k in kernels:
            delta = np.einsum("lir,lro->lio", own[f"{k}/lora_a"], own[f"{k}/lora_b"]) * 16 / 8
            v, norm = before[k] + delta, lambda w: np.sqrt((w**2).sum(1, keepdims=True))
            scale = (norm(before[k]) + own[f"{k}/magnitude"]) / norm(v) if more else 1
            assert delta.any() and all(own[f"{k}/{name}"].any() for name in more)
            np.testing.assert_allclose(after[k], scale * v, rtol=1e-5, atol=1e-7)
    assert restore.digest(restore.restore(pretrained).params) == digest


@pytest.mark.parametrize(
    "arg", ["lora", *(pytest.param(a, marks=pytest.mark.slow) for a in ("dora", "prompt", "adapter", "last", "full"))]
)
def test_what_was_fine_tuned_goes_to_pytorch(arg, config, tmp_path):
    pytest.importorskip("torch")
    run(config(arg, ema=0.5), tmp_path / "run")
    restored = restore.restore(tmp_path / "run")
    export(restored, tmp_path / "export")
    worst = compare(restored, tmp_path / "export", examples=16)
    assert worst.keys() == {"head/classification"} and max(worst.values()) < 1e-5


def test_a_run_with_a_base_resumes_bit_for_bit_and_names_a_base_that_is_gone(config, pretrained, tmp_path, monkeypatch):
    c = config("lora", steps=3)
    c.checkpoint.every, c.checkpoint.keep = 2, 2
    whole = run(c, tmp_path / "whole")
    shutil.copytree(tmp_path / "whole", tmp_path / "again")
    shutil.rmtree(next((tmp_path / "again" / "checkpoints").glob("*3")))
    again = run(c, tmp_path / "again")
    jax.tree.map(np.testing.assert_array_equal, jax.device_get(whole), jax.device_get(again))
    moments = [x for x in jax.tree.leaves(whole.opt_state) if x.ndim]
    assert sum(x.size for x in moments) == 2 * sum(x.size for x in jax.tree.leaves(whole.params))
    monkeypatch.setattr(restore, "digest", lambda params: "another")
    with pytest.raises(ValueError, match=r"config.load: .* is not what this run was trained beside"):
        restore.restore(tmp_path / "again")
    gone = build.parse(inherit.read(c, tmp_path / "again").to_dict() | {"load": "gone"})
    with pytest.raises(FileNotFoundError, match=r"config.load: 'gone': the rest of this run was read there: "):
        restore.read_sources(gone, (), [{"step": 1}])


@pytest.mark.slow
def test_a_mesh_changes_nothing(config, tmp_path):
    """LoRA, mixing and dropping: a base split over devices gives the losses of one that is whole."""
    c = config("lora", steps=3)
    c.objectives.classification.update(mixup=0.8, cutmix=1.0, drop_path=0.5)
    rows = []
    for mesh in ("ddp", "fsdp=4,tensor=2"):
        c.mesh = mesh
        run(c, tmp_path / mesh)
        rows.append([row["loss"] for row in laws.losses(tmp_path / mesh).values()])
    np.testing.assert_allclose(*rows, rtol=1e-5)


@pytest.mark.slow
def test_a_modality_is_added(config, pretrained, tmp_path, capsys):
    c = config("added")
    c.modalities = [m for m in c.modalities if m["name"] != "noto"]
    c.objectives.masked.mixture[0]["inputs"] = dict(render3d=1.0)
    run(c, tmp_path / "run")
    out = capsys.readouterr().out
    assert "1 new: model/embed/modality/french" in out and "0 dropped" in out and "step 2/2" in out


@pytest.mark.parametrize(
    "changes, error",
    [
        (dict(labels=dict(vocab_size=94, classes=["smiling"] * 94)), "classes='1 names': must be vocab_size=94"),
        (dict(labels=dict(vocab_size=2, classes=["smiling", "other"])), r"labels 'subgroup': row \d+ has subgroup="),
        (dict(labels=dict(classes=[])), r"subgroup='smiling': must be a number of 0…94"),
        (dict(labels=dict(field="class")), "modality 'subgroup': field='class' is unknown: use one of"),
        (dict(modalities=[dict(name="depth")]), r"config.modalities: 'depth': .* has no such modality, but render3d"),
        (dict(objectives=dict(inputs=["caption"])), r"classification.inputs=\('caption',\): must be of the network's"),
        (dict(objectives=dict(label="group")), "classification.label='group': no such labels .*: subgroup"),
        (dict(train=[dict(pattern="registres")]), "config.train: .*'registres'.*it is the first rule for no parameter"),
        (dict(train=[dict(parts=["encodr"])]), "config.train: .*the network has no part or tower 'encodr'"),
        (dict(train=[dict(how="last", k=2)]), "k=2: .* has 2 blocks; take how='full'"),
        (dict(train=[dict(how="lora")]), "config.train: the rule how='lora': rank=0: must be positive"),
        (dict(model=dict(decoder_depth=0, registers=3)), "nothing there gives model/encoder/registers.*how='full'"),
        (dict(load=""), r"config.load=\[\]: fine-tuning starts from a model"),
        (dict(load=[dict(workdir="gone", parts=["encoder"])]), r"config.load=\[\]: fine-tuning starts from a model"),
    ],
)  # fmt: skip
def test_bad_input_is_named_before_anything_is_written(changes, error, config, tmp_path):
    c = config("probe")
    with c.unlocked():
        for key, value in changes.items():
            if key == "labels":
                c.labels = [{**c.labels[0], **value}]
            elif key == "objectives":
                c.objectives.classification.update(value)
            else:
                if key in c:
                    del c[key]  # it may become another type
                c[key] = value
    with pytest.raises(ValueError, match=error):
        run(c, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_an_empty_or_wrong_split_to_evaluate_on_is_named_too(config, tmp_path, monkeypatch):
    c = config("probe", evals=dict(val=dict(evaluator="losses", split="val", batch_size=16, every=1)))
    source = build.source
    monkeypatch.setattr(build, "source", lambda data, split: source(data, split) if split == "train" else [])
    with pytest.raises(
        ValueError,
        match=r"config\.evals\.val\.split='val': split='val' of \[\] is empty: name a split that holds examples",
    ):
        run(c, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_accumulation_beside_a_base_equals_one_batch(config, tmp_path):
    """Gradients of the own part from two microbatches; without drop-path and mixing all examples are alike."""
    c = config("lora")
    c.objectives.classification.drop_path = 0.0
    made = Program(build.parse(inherit.read(c, tmp_path / "none")), jax.devices()[:1])
    params = jax.jit(made.init)()
    own, base = made.split.trained(params, 0), made.split.base(params)
    own = jax.tree.map(lambda x: x + 0.1 * jax.random.normal(jax.random.key(x.size), x.shape), own)
    whole, keys = (lambda own: made.split.compose(own, base)), example_keys(0, 0, 8)
    batch = laws.Built(inherit.read(c, tmp_path / "none")).batch()

    def undivided(own):
        return evaluate_objectives(made.graphs, whole(own), made.objectives, batch, keys, train=True)

    (loss, _), grads = jax.jit(jax.value_and_grad(undivided, has_aux=True))(own)
    split = jax.jit(lambda own: accumulate(made.graphs, own, made.objectives, batch, keys, 2, whole))
    loss_2, _, grads_2 = split(own)
    np.testing.assert_allclose(loss_2, loss, rtol=1e-5)
    laws.close_trees(grads, grads_2, 1e-4)


@pytest.mark.slow
def test_a_dense_head_trains(tmp_path):
    """One picture of an emoji as the depth of another: `pixels` that only the objective reads."""
    pixels = dict(kind="pixels", shape=(32, 32, 3), patch=8, mean=(0.5,) * 3, std=(0.5,) * 3, targets=False)
    c = ConfigDict(dict(
        steps=20, batch_size=8, data=dict(source="emoji"), modalities=[dict(name="noto", field="noto", **pixels)],
        labels=[dict(name="mono", kind="pixels", shape=(32, 32, 1), field="mono", resample="nearest")],
        model=dict(dim=32, heads=2, encoder_depth=1, decoder_depth=0, dtype="float32"),
        objectives=dict(dense=dict(
            inputs=["noto"], grid="noto", label="mono", loss="l1", unit=1 / 255, width=8, up=2, blocks=1,
        )),
        optim=dict(lr=1e-2), checkpoint=dict(every=100), log=dict(every=1, tensorboard=False),
    ))  # fmt: skip
    train(c, tmp_path / "run")
    errors = [row["dense/l1"] for row in laws.losses(tmp_path / "run").values()]
    assert len(errors) == 20 and errors[-1] < 0.7 * errors[0]


@pytest.mark.slow
def test_imagenet_in_two_stages(tmp_path, capsys):
    """4M's recipe on emoji: from a model of pixels to 95 classes, and from there to 9, with a new head."""
    pixels = dict(kind="pixels", shape=(32, 32, 3), patch=8, mean=(0.5,) * 3, std=(0.5,) * 3, targets=False)
    groups = sorted({row["group"] for row in map(emoji.Source("train").__getitem__, range(1300))})
    subgroups = finetune_emoji.get_config().labels[0]["classes"]
    model = dict(dim=32, heads=2, encoder_depth=2, decoder_depth=0, dtype="float32")
    label = dict(name="mono", kind="pixels", shape=(8, 8, 1), field="mono", resample="nearest")
    c = ConfigDict(dict(
        steps=1, batch_size=8, data=dict(source="emoji"), modalities=[dict(name="rgb@224", field="noto", **pixels)],
        labels=[label], model=model,
        objectives=dict(dense=dict(inputs=["rgb@224"], grid="rgb@224", label="mono", loss="l1", width=8, blocks=1)),
    ))  # fmt: skip
    train(c, tmp_path / "pretrained")
    before = "pretrained"
    for arg, field, names, lr in (("B,in21k", "subgroup", subgroups, 1e-2), ("B", "group", groups, 0.0)):
        c = finetune_imagenet.get_config(arg)
        c.data.update(source="emoji", path="", workers=0)
        c.modalities = [dict(name="rgb@224", shape=(32, 32, 3))]
        c.labels = [{**c.labels[0], "field": field, "vocab_size": len(names), "classes": names}]
        c.steps, c.batch_size, c.optim.warmup, c.optim.lr, c.evals = 2, 8, 0, lr, {}
        c.load = str(tmp_path / before)
        capsys.readouterr()
        run(c, tmp_path / field)
        before = field
    out = capsys.readouterr().out
    assert "  2 new: objective/classification/bias, objective/classification/kernel\n" in out
    assert "  2 dropped: objective/classification/bias, objective/classification/kernel\n" in out
    one, two = (flat(restore.restore(tmp_path / field).params) for field in ("subgroup", "group"))
    assert one["objective/classification/kernel"].shape == (32, 95)
    assert two["objective/classification/kernel"].shape == (32, 9)
    trunk = [path for path in one if path.startswith("model/")]
    assert len(trunk) > 10 and one["objective/classification/norm/bias"].any()
    for path in (*trunk, "objective/classification/norm/bias"):  # the second learned nothing: its rate was 0
        np.testing.assert_array_equal(two[path], one[path], err_msg=path)
    (moved,) = (v for p, v in flat(restore.restore(tmp_path / "pretrained").params).items() if "dense/rgb" in p)
    assert (moved != one["model/embed/dense/rgb@224/kernel"]).any(), "the first did"


def test_the_config_is_filled_from_the_pretrained_run(config, pretrained):
    held = build.read_run(pretrained)
    c = config("full")
    c.modalities = [dict(name="render3d", shape=(4, 4), targets=False), dict(name="caption")]
    run = build.parse(inherit.read(c, pretrained.parent / "none"))
    render, caption = run.modalities
    assert (render.shape, render.trained_grid, render.targets) == ((4, 4), (8, 8), False)
    assert (render.code_std, render.tokenizer) == (0.3, held.modalities[0].tokenizer)
    assert caption == held.modalities[1]
    assert run.model == held.model | {"decoder_depth": 0, "registers": 0, "adapter": 0}
