"""EVA's regression of a teacher's features: against NumPy, its traps, exact accumulation, any mesh, wrong settings."""

import functools
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny
from flax import nnx
from laws import Built, close_trees
from ml_collections import ConfigDict
from toy_run import write_first

from configs.systems import eva
from pretrain import build, sharding
from pretrain.evals.base import Context
from pretrain.models.passes import compute, draw, evaluate
from pretrain.restore import init_function
from pretrain.step import Models, accumulate, example_keys, forward

GOLDEN = np.load(Path(__file__).parents[1] / "golden" / "systems" / "losses.npz")
B, COUNT, PATCHES, WIDTH = 8, 6, 16, 10
KEYS = example_keys(0, 3, B)
PICTURE = dict(kind="pixels", shape=(64, 64, 3), field="render3d", patch=16, targets=False)


@pytest.fixture(scope="module")
def workdir(tmp_path_factory):
    """Where a teacher was trained that calls the pictures otherwise and normalises them otherwise, and another one."""
    folder = tmp_path_factory.mktemp("teacher")
    for name, patch in (("clip", 16), ("finer", 8)):
        spec = dict(PICTURE, name="image", patch=patch, mean=(0.2, 0.3, 0.4), std=(0.7, 0.6, 0.5))
        c = ConfigDict(dict(
            steps=2, batch_size=B, data=dict(source="emoji"), optim=dict(warmup=0),
            modalities=[spec, dict(spec, name="other", field="noto")],
            model=dict(
                model="models.multimodal", embed_dim=WIDTH, dtype="float32",
                towers=[dict(name="image", modalities=["image", "other"], dim=16, heads=2, depth=2, pool="cls")],
            ),
            objectives=dict(contrastive=dict(edges=[dict(a="image", b="other")])),
        ))  # fmt: skip
        (folder / name).mkdir()
        (folder / name / "config.json").write_text(build.to_json(c))
    return folder / "clip"


def config(workdir, **objective):
    one = dict(modality="photo", head="features", teacher="teacher", masked=dict(count=COUNT)) | objective
    half = (0.5, 0.5, 0.5)
    return ConfigDict(dict(
        steps=2, batch_size=B, data=dict(source="emoji"), optim=dict(warmup=0),
        modalities=[dict(PICTURE, name="photo", mean=half, std=half)],
        model=dict(model="models.network", dtype="float32", parts=dict(
            embed=dict(part="embed_one", reads=["photo"], dim=12, cls=True, masks=True),
            encoder=dict(part="encoder", reads=["embed"], dim=12, heads=2, depth=2),
            pool=dict(part="pool", reads=["encoder"], width=12),
            features=dict(part="predict", reads=["encoder"], dim=WIDTH),
            pixels=dict(part="predict", reads=["encoder"], dim=768),
            pooled=dict(part="predict", reads=["pool"], dim=WIDTH),
        )),
        references=dict(teacher=dict(reference="frozen", workdir=str(workdir), reads=dict(image="photo"))),
        objectives=dict(regression=dict(objective="feature_regression") | one),
    ))  # fmt: skip


@functools.cache
def made(workdir, **objective):
    """(Built, parameters that are not trivial, the teacher's among them, a batch with one that lacks its picture)."""
    built = Built(config(workdir, **objective))
    params = tiny.noisy(built.params)
    batch = jax.tree.map(jnp.asarray, built.batch()) | {"step": jnp.zeros(B, jnp.int32)}
    batch["photo"]["valid"] = batch["photo"]["valid"].at[3].set(False)
    return built, params, batch


def run(built, params, batch, keys=KEYS):
    """(loss, gradient)."""
    loss = lambda p: forward(built.graphs, p, built.objectives, batch, keys, train=True)[0]
    return jax.jit(jax.value_and_grad(loss))(params)


def values(built, params, batch, **nodes):
    """Of nodes, beside which patches are masked."""
    nodes |= {"chosen": built.objectives["regression"].passes(True)["chosen"]}
    data = draw(nodes.values(), batch, KEYS)
    found = evaluate(nodes.values(), Models(built.graphs, params), data, KEYS)
    return jax.device_get({name: found[node] for name, node in nodes.items()})


@pytest.mark.slow
@pytest.mark.parametrize("teacher", ["teacher", ""])
def test_equals_numpy(workdir, teacher):
    """Loss and gradient of W and its bias: loops over examples and patches, from the last norms of both networks."""
    head = "features" if teacher else "pixels"
    built, params, batch = made(workdir, teacher=teacher, head=head)
    loss, grads = run(built, params, batch)
    one = built.objectives["regression"]
    theirs = one.context.model("teacher", "")
    seen = values(
        built, params, batch, h=one.passes(True)["found"].args[0], t=theirs.stream("photo", theirs.shown("photo"))
    )
    exact = jax.tree.map(lambda x: np.asarray(x, np.float64), jax.device_get(params))
    own = exact["model"][head]["linear"]
    project = exact["models"]["teacher"]["image_project"]["linear"]["kernel"]
    pixels = np.asarray(batch["photo"]["pixels"]).reshape(B, 4, 16, 4, 16, 3).transpose(0, 1, 3, 2, 4, 5)
    pixels = (pixels.reshape(B, PATCHES, 768) / 255 - 0.5) / 0.5
    total, count, kernel, bias = 0.0, 0, np.zeros_like(own["kernel"]), np.zeros_like(own["bias"])
    for b in range(B):
        for i in np.flatnonzero(seen["chosen"][b]):
            h = np.float64(seen["h"].x[b, 1 + i])  # behind the class token
            t = np.float64(seen["t"].x[b, 1 + i]) @ project if teacher else pixels[b, i]
            f, t = h @ own["kernel"] + own["bias"], t / np.linalg.norm(t)
            cos = f @ t / np.linalg.norm(f)
            slope = -(t - cos * f / np.linalg.norm(f)) / np.linalg.norm(f)
            total, count, kernel, bias = total - cos, count + 1, kernel + np.outer(h, slope), bias + slope
    assert count == COUNT * (B - 1)
    np.testing.assert_allclose(loss, total / count, rtol=1e-5)
    np.testing.assert_allclose(grads["model"][head]["linear"]["kernel"], kernel / count, atol=1e-6)
    np.testing.assert_allclose(grads["model"][head]["linear"]["bias"], bias / count, atol=1e-6)


def test_the_golden_number(workdir):
    one = made(workdir)[0].objectives["regression"]
    a, b = (jnp.float32(GOLDEN[f"in/{n}"])[None] for n in "ab")
    chosen = jnp.zeros(a.shape[:2], bool).at[0, jnp.asarray([0, 2, 3])].set(True)
    total = one.totals({}, {"found": a, "target": b, "chosen": chosen}, train=True, run=None)["neg_cos"]
    np.testing.assert_allclose(total / one.weights({"chosen": chosen})["neg_cos"], GOLDEN["out/eva"], rtol=1e-5)


def test_the_target_is_what_the_teacher_says_in_its_own_run(workdir):
    """In its own normalisation, of the clean picture, behind norm and projection, whatever is masked."""
    built, params, batch = made(workdir)
    seen = values(built, params, batch, t=built.objectives["regression"].passes(True)["target"])
    alone = Built(ConfigDict(build.read_config(workdir)))
    model = nnx.merge(alone.graph, params["models"]["teacher"])
    states, leaf = model.states, model.states.shown("image")
    nodes = {"t": states.projected("image", leaf), "z": states.embedding("image", leaf)}
    found = compute(model, nodes, {"image": batch["photo"]})
    np.testing.assert_allclose(seen["t"], found["t"], atol=1e-6)
    np.testing.assert_allclose(seen["t"][:, 0], found["z"], atol=1e-6)  # CLIP's embedding is its class token's
    assert seen["t"].shape == (B, 1 + PATCHES, WIDTH)
    rows = [one.run.modalities[0].rows(np.asarray(batch["photo"]["pixels"])) for one in (built, alone)]
    assert np.abs(rows[0] - rows[1]).max() > 0.3


def test_a_masked_patch_is_hidden_from_the_student_and_not_from_the_teacher(workdir):
    built, params, batch = made(workdir)
    passes = built.objectives["regression"].passes(True)
    nodes = dict(found=passes["found"], target=passes["target"])
    before = values(built, params, batch, **nodes)
    where = before["chosen"].reshape(B, 4, 1, 4, 1, 1).repeat(16, 2).repeat(16, 4).reshape(B, 64, 64, 1)

    def beside(which):
        pixels = jnp.where(which, 255 - batch["photo"]["pixels"], batch["photo"]["pixels"])
        return values(built, params, batch | {"photo": batch["photo"] | {"pixels": pixels}}, **nodes)

    hidden, seen = beside(where), beside(~where)
    has = np.asarray(batch["photo"]["valid"])
    np.testing.assert_array_equal(hidden["found"][has], before["found"][has])
    assert all((other["target"] != before["target"])[has].any((1, 2)).all() for other in (hidden, seen))
    assert (seen["found"] != before["found"])[has].any((1, 2)).all()
    # What stands there is the mask token, and a patch that is not masked is what it is without any.
    embed = nodes["found"].args[0].args[0]
    moved = params | {"model": params["model"] | {"embed": dict(params["model"]["embed"])}}
    moved["model"]["embed"]["mask_token"] = moved["model"]["embed"]["mask_token"] + 1.0
    a, b = (values(built, p, batch, x=embed)["x"].x[:, 1:] for p in (params, moved))
    np.testing.assert_allclose(b - a, np.broadcast_to(before["chosen"][..., None], a.shape), atol=1e-5)


def test_everything_learns_but_the_teacher(workdir):
    built, params, batch = made(workdir)
    grads = run(built, params, batch)[1]
    assert not any(np.asarray(x).any() for x in jax.tree.leaves(grads["models"]))
    for part in ("embed", "encoder", "features"):
        assert all(np.abs(x).max() > 0 for x in jax.tree.leaves(grads["model"][part])), part


@pytest.mark.slow
@pytest.mark.parametrize("drop_path", [0.0, 0.3])
def test_accumulation_changes_nothing(workdir, drop_path):
    built, params, batch = made(workdir, drop_path=drop_path)
    loss, _, grads = jax.jit(lambda p: accumulate(built.graphs, p, built.objectives, batch, KEYS, 2))(params)
    close_trees(run(built, params, batch), (loss, grads), 2e-5)
    assert drop_path == 0 or loss != run(*made(workdir))[0]


@pytest.mark.slow
def test_a_mesh_changes_nothing(workdir):
    built, params, batch = made(workdir)
    mesh = sharding.make_mesh(sharding.parse_mesh("data=4,fsdp=2"))
    with jax.set_mesh(mesh):
        step = jax.jit(
            lambda p, b: jax.value_and_grad(
                lambda p: forward(built.graphs, p, built.objectives, b, KEYS, train=True)[0]
            )(p),
            in_shardings=(sharding.state_sharding(params, built.roles, mesh), sharding.batch_sharding(mesh)),
        )
        found = jax.device_get(step(params, batch))
    close_trees(jax.device_get(run(built, params, batch)), found, 2e-5)


def test_clip_starts_from_the_tower_that_was_trained(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for arg in ("", "tiny"):
        write_first(eva, arg, tmp_path)
        size = f"{arg}_clip".removeprefix("_")
        trained, starts = build.parse(eva.get_config(arg)), build.parse(eva.get_config(size))
        shapes = []
        for one in (trained, starts):
            objectives = build.objectives(one)
            init = init_function(build.models(one, objectives), objectives, 0)[1]
            shapes.append(jax.eval_shape(init)["model"])
        mine, theirs = shapes
        assert starts.load[0].parts == ("image",) and "mask_token" in mine["image_embed"]
        mine["image_embed"].pop("mask_token")
        for part in ("image_embed", "image_encoder"):
            assert jax.tree.map(lambda x: x.shape, mine[part]) == jax.tree.map(lambda x: x.shape, theirs[part])
        count = sum(x.size for x in jax.tree.leaves(mine))
        assert arg or round(count / 1e6) == 1012
        one = build.objectives(trained)["feature_regression"]
        assert (one.masked.count, one.spec.length) == ((26, 64) if arg else (105, 256))


def test_the_harness_reads_what_the_network_pools(workdir):
    """It projects nothing, and embeds no two modalities side by side."""
    built = Built(config(workdir))
    context = Context(built.run, built.graphs, built.objectives)
    assert context.readable == ("photo",) and context.embedded == ()


@pytest.mark.parametrize(
    "change, error",
    [
        (dict(modality="image"), "modality='image': must be pixels in patches; the run has photo"),
        (dict(head="nose"), "head='nose': the network has no such part; it has embed"),
        (dict(head="encoder"), "head='encoder': name a `predict` of a stream"),
        (dict(head="pooled"), "head='pooled': name a `predict` of a stream"),
        (dict(head="pixels"), "head='pixels': it gives 768 numbers, but targets have 10: set its dim"),
        (dict(teacher=""), "head='features': it gives 10 numbers, but targets have 768: set its dim"),
        (dict(teacher="master"), "teacher='master': no such model; there are online, teacher"),
        (dict(teacher="online"), "teacher='online': it projects no 'photo' of the run, but nothing"),
        (dict(masked=dict(count=16)), "masked.count=16: must be above 0 and below the 16 patches of 'photo'"),
        (dict(masked=dict(count=0)), "masked.count=0: must be above 0"),
        (dict(masked=dict(count=3)), "masked.smallest=4: must be above 0, and at most count"),
        (dict(masked=dict(count=6, aspect=0.0)), "masked.aspect=0.0: must be above 0 and at most 1"),
        (dict(masked=dict(count=6, attempts=0)), "masked.attempts=0: must be at least 1"),
        (dict(drop_path=1.0), "drop_path=1.0: must be at least 0 and below 1"),
    ],
)
def test_wrong_settings_are_named(workdir, change, error):
    with pytest.raises(ValueError, match=f"objectives.feature_regression.{error}"):
        build.objectives(build.parse(config(workdir, **change)))


def test_a_network_or_a_teacher_that_does_not_fit_is_named(workdir):
    c = config(workdir)
    c.model.parts.embed.masks = False
    with pytest.raises(ValueError, match="head='features': it starts from 'embed': let that embed 'photo', with masks"):
        build.objectives(build.parse(c))
    c = config(workdir.parent / "finer")
    with pytest.raises(ValueError, match=r"teacher='teacher': it sees patches \(8, 8\), the run \(4, 4\): choose"):
        build.objectives(build.parse(c))
    c = config(workdir)
    c.references.teacher.reads = {}
    with pytest.raises(ValueError, match="it projects no 'photo' of the run, but nothing; see its `reads`"):
        build.objectives(build.parse(c))
    c = config(workdir)
    c.model.parts.embed.positions, c.model.parts.embed.raw = "none", True
    with pytest.raises(ValueError, match="'embed'"):
        Built(c)
