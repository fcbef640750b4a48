"""Starting from other runs' parameters: what was there computes the same bits, and everything else is reported."""

import dataclasses
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny
from flax import nnx

from data_pipeline.spec import Modality
from pretrain.initialize import Load, Source, as_loads, check_start, resize, start
from pretrain.models import multimodal, tower
from pretrain.models.network import Network, describe
from pretrain.models.predictor import Predictor
from pretrain.models.tokens import Whole, whole
from pretrain.objectives import contrastive, masked
from pretrain.objectives.edges import Edge
from pretrain.parameters import Roles, values, variables
from pretrain.step import evaluate_objectives, example_keys

CODES = Modality("codes", "set", (4,), "codes", "codes", 9, tokenizer="codes")
OLD = (*tiny.MODALITIES, CODES)


def params(model):
    return {"model": jax.tree.map(np.asarray, nnx.to_pure_dict(nnx.split(model)[1])), "objective": {}}


def roles(model):
    return Roles({"model": variables(model), "objective": {}})


def held(model):
    """What `restore` gives, as far as `start` looks at it."""
    return types.SimpleNamespace(params=params(model), roles=roles(model))


def source(held, new, **load):
    """What a run whose network is `new` reads for an entry of `config.load`."""
    names = Load("there", **load).names(tuple(held.params["model"]), tuple(params(new)["model"]))
    return Source("config.load: 'there'", held, names)


def start_from(old, new, **load):
    return start([source(held(old), new, **load)], params(new), roles(new))


def outputs(model, modalities):
    batch, predictor = tiny.batch(4, missing=0.0, modalities=OLD), Predictor(model)
    encoded = predictor.encode(Whole(("image",), modalities)(batch))
    queries = whole(batch, "label", modalities)
    return np.asarray(predictor.logits(predictor.decode(encoded, queries).x, "text"))


@pytest.mark.parametrize("tables", ["shared", "untied"])
def test_old_outputs_are_bit_identical_when_modalities_come_and_go(tables):
    extra = Modality("extra", "grid", (2, 2), "extra", "extra", 7, tokenizer="fsq")
    ours = (extra, *OLD[2:], OLD[0])  # another order, `depth` gone
    old = tiny.model(modalities=OLD, tables=tables)
    new = tiny.model(modalities=ours, tables=tables, seed=7)
    got, report = start_from(old, new)
    graph, _ = nnx.split(new)
    merged = nnx.merge(graph, jax.tree.map(jnp.asarray, got["model"]))
    np.testing.assert_array_equal(outputs(merged, ours), outputs(old, OLD))
    fresh = params(new)["model"]["embed"]
    np.testing.assert_array_equal(got["model"]["embed"]["tables"]["extra"], fresh["tables"]["extra"])
    np.testing.assert_array_equal(got["model"]["embed"]["modality"][0], fresh["modality"][0])
    assert "model/embed/tables/extra" in report.new and "model/embed/modality/extra" in report.new
    assert "model/embed/tables/depth" in report.dropped and "model/embed/modality/depth" in report.dropped
    assert "1 dropped" not in str(report) and "new: " in str(report)
    shapes, learns = jax.eval_shape(lambda: params(new)), lambda path: False
    assert str(report) == check_start([source(held(old), new)], shapes, roles(new), learns)


def towers(embed_dim=8):
    """4M's trunk beside a tower of its own for captions."""
    text = tower.Config("words", ("caption",), dim=8, heads=2, depth=1, pool="last", causal=True)
    return multimodal.Config(
        towers=(text,), embed_dim=embed_dim, trunk=tiny.config(embed_dim=embed_dim), dtype="float32"
    )


@pytest.mark.parametrize("kind", ["encdec", "towers"])
def test_any_order_of_modalities_is_the_same_run(kind):
    """The losses of a batch, masked and contrastive, with the draws that they take: rows and draws go by names."""
    mixed = dict(inputs={m.name: 0.5 for m in OLD}, targets={m.name: 0.5 for m in OLD})

    def losses(modalities, held=None):
        config = towers() if kind == "towers" else tiny.config()
        states = describe(config.compose(modalities, tuple(m.name for m in modalities)), modalities)
        context = dataclasses.replace(tiny.context(modalities), network=states)
        objectives = {
            "masked": masked.Objective(
                context, input_tokens=(4, 12), target_tokens=(4, 12),
                mixture=(masked.Mixture(**mixed),),
            ),
            "contrastive": contrastive.Objective(
                context, edges=(Edge("image", "caption"), Edge("depth", "image")), grid_tokens=5
            ),
        }  # fmt: skip
        embedded = tuple(m.name for m in modalities if m.name in ("image", "caption", "depth"))
        if kind == "encdec":
            made = tiny.model(embedded, modalities)
        else:
            made = Network(config, modalities, embedded, nnx.Rngs(0))
        own = params(made) | {"objective": {n: values(o.init(jax.random.key(0))) for n, o in objectives.items()}}
        own_roles = Roles({"model": variables(made), "objective": {n: o.init(None) for n, o in objectives.items()}})
        if held:
            own, report = start([source(held, made)], own, own_roles)
            assert not report.new and not report.dropped
        batch = jax.tree.map(jnp.asarray, tiny.batch(8, modalities=OLD))
        run = jax.jit(
            lambda p, b, k: evaluate_objectives({"online": nnx.split(made)[0]}, p, objectives, b, k, train=True)
        )
        loss, terms = run(own, batch, example_keys(0, 3, 8))
        return types.SimpleNamespace(params=own, roles=own_roles), jax.device_get((loss, terms))

    held, (loss, terms) = losses(OLD)
    _, (again, others) = losses(OLD[::-1], held)
    np.testing.assert_allclose(again, loss, rtol=1e-5)
    assert set(terms) == set(others)
    for name, (total, weight) in terms.items():
        np.testing.assert_allclose(others[name], (total, weight), rtol=1e-5, err_msg=name)


def test_learned_positions_are_resized():
    longer = tiny.replace(CODES, shape=(7,))
    ours = (*tiny.MODALITIES, longer)
    new = tiny.model(modalities=ours)
    got, report = start_from(tiny.model(modalities=OLD), new)
    rows = got["model"]["embed"]["learned"]["codes"]
    old = params(tiny.model(modalities=OLD))["model"]["embed"]["learned"]["codes"]
    np.testing.assert_array_equal(rows[::2], old)
    np.testing.assert_allclose(rows[1], (old[0] + old[1]) / 2, rtol=1e-6)
    assert report.resized == ("model/embed/learned/codes 4 → 7",)
    np.testing.assert_array_equal(resize(old, 4), old)


@pytest.mark.parametrize("changes", [dict(dim=32), dict(encoder_depth=3), dict(gated=False), dict(bias=True)])
def test_another_trunk_is_refused(changes):
    with pytest.raises(ValueError, match=r"config.load: 'there': .*(sizes of that model|kind of blocks)"):
        start_from(tiny.model(modalities=OLD), tiny.model(modalities=OLD, **changes))


def network(towers, modalities=("image", "caption"), seed=0):
    config = multimodal.Config(tuple(towers), embed_dim=8, dtype="float32")
    return tiny.perturbed(Network(config, tiny.MODALITIES, modalities, nnx.Rngs(seed)), seed)


def image(name="image", dim=8, **changes):
    return tower.Config(name, ("image",), dim=dim, heads=2, depth=2, **changes)


WORDS = tower.Config("words", ("caption",), dim=8, heads=2, depth=1, pool="last", causal=True)


def test_a_tower_is_loaded_alone_and_under_another_name():
    old, new = network([image(), WORDS]), network([image("photo"), WORDS], seed=1)
    got, report = start_from(old, new, parts=("image",), into=("photo",))
    theirs, fresh = params(old)["model"], params(new)["model"]
    for part in ("embed", "encoder", "project"):
        jax.tree.map(np.testing.assert_array_equal, got["model"][f"photo_{part}"], theirs[f"image_{part}"])
        jax.tree.map(np.testing.assert_array_equal, got["model"][f"words_{part}"], fresh[f"words_{part}"])
    assert all(p.startswith("model/photo_") for p in report.loaded) and not report.dropped
    assert not report.new
    assert {p.split("/")[1] for p in report.others} == {"words_embed", "words_encoder", "words_project"}
    got, report = start_from(old, new, parts=("words_embed",))  # a part alone
    assert {p.split("/")[1] for p in report.loaded} == {"words_embed"}


def test_later_entries_win_and_a_projection_into_another_space_starts_anew():
    first, second = network([image(), WORDS]), network([image(), WORDS], seed=1)
    new = network([image(project_bias=True), WORDS], seed=2)
    second_held = held(second)
    second_held.params["model"]["words_project"] = {"linear": {"kernel": np.zeros((8, 5))}}
    sources = [source(held(first), new), source(second_held, new, parts=("words",))]
    got, report = start(sources, params(new), roles(new))
    for part, theirs in (("image_encoder", first), ("words_encoder", second), ("words_project", first)):
        jax.tree.map(np.testing.assert_array_equal, got["model"][part], params(theirs)["model"][part])
    assert report.new == ("model/image_project/linear/bias",) and report.dropped == (
        "model/words_project/linear/kernel",
    )


def test_a_table_of_another_vocabulary_is_left_behind():
    other = (*tiny.MODALITIES[:2], tiny.replace(tiny.MODALITIES[2], vocab="bytes"), tiny.MODALITIES[3])
    old = network([image(), WORDS])
    new = Network(multimodal.Config((image(), WORDS), 8, dtype="float32"), other, ("image", "caption"), nnx.Rngs(1))
    _, report = start_from(old, new)
    table = "model/words_embed/table"
    assert report.new == (table,) and report.dropped == (table,)


def test_rows_that_nothing_gives_are_named_where_they_do_not_learn():
    extra = Modality("extra", "grid", (4, 4), "extra", "image", 20, tokenizer="fsq")
    old, new = tiny.model(modalities=OLD), tiny.model(modalities=(*OLD, extra))
    shapes, found = jax.eval_shape(lambda: params(new)), [source(held(old), new)]
    with pytest.raises(ValueError, match="nothing there gives model/embed/modality/extra, which this run does not tra"):
        check_start(found, shapes, roles(new), lambda path: path.startswith("model/embed"))
    check_start(found, shapes, roles(new), lambda path: "extra" not in path)


@pytest.mark.parametrize(
    "load, message",
    [
        (dict(parts=("photo",)), "it has no part or tower 'photo', but image_embed, .*words_project"),
        (dict(parts=("image",)), r"this network has no part or tower 'image', but photo_embed, .*; see `into`"),
        (dict(parts=("words",), into=("photo",)), r"photo_embed.*sizes of that model"),
        (dict(parts=("image", "words"), into=("photo",)), "into=.*: one name for each of parts="),
    ],
)
def test_bad_entries_are_named(load, message):
    old, new = network([image(), WORDS]), network([image("photo", dim=12), WORDS])
    with pytest.raises(ValueError, match=f"config.load: 'there': .*{message}"):
        start_from(old, new, **load)


def test_a_model_of_nothing_alike_is_refused():
    with pytest.raises(ValueError, match=r"config.load: 'there': it has nothing that this network has"):
        start_from(network([image("a")], ("image",)), network([image("b")], ("image",)))


def test_a_workdir_is_an_entry():
    assert as_loads("a") == as_loads(["a"]) == as_loads([dict(workdir="a")]) == [dict(workdir="a")]
    assert as_loads("") == as_loads(()) == []
    with pytest.raises(ValueError, match=r"config\.load: workdir='': name the workdir"):
        Load("")
