"""Starting from another run's parameters: what was there computes the same bits, and everything else is reported."""

import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny
from flax import nnx

from data_pipeline.spec import Modality
from pretrain.initialize import Origin, check_start, resize, start_from
from pretrain.models import encdec, multimodal, tower
from pretrain.models.tokens import whole
from pretrain.objectives import contrastive, masked
from pretrain.objectives.base import Context
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
    """What `restore` gives, as far as `start_from` looks at it."""
    return types.SimpleNamespace(params=params(model), roles=roles(model))


def outputs(model, modalities):
    batch = tiny.batch(4, missing=0.0, modalities=OLD)
    encoded = model.encode(whole(batch, "image", modalities))
    queries = whole(batch, "label", modalities)
    return np.asarray(model.logits(model.decode(encoded, queries), "text"))


@pytest.mark.parametrize("tables", ["shared", "untied"])
def test_old_outputs_are_bit_identical_when_modalities_come_and_go(tables):
    extra = Modality("extra", "grid", (2, 2), "extra", "extra", 7, tokenizer="fsq")
    ours = (extra, *OLD[2:], OLD[0])  # another order, `depth` gone
    old = tiny.model(modalities=OLD, tables=tables)
    new = tiny.model(modalities=ours, tables=tables, seed=7)
    got, report = start_from(held(old), params(new), roles(new))
    graph, _ = nnx.split(new)
    merged = nnx.merge(graph, jax.tree.map(jnp.asarray, got["model"]))
    np.testing.assert_array_equal(outputs(merged, ours), outputs(old, OLD))
    fresh = params(new)["model"]["tokens"]
    np.testing.assert_array_equal(got["model"]["tokens"]["tables"]["extra"], fresh["tables"]["extra"])
    np.testing.assert_array_equal(got["model"]["tokens"]["modality"][0], fresh["modality"][0])
    assert "model/tokens/tables/extra" in report.new and "model/tokens/modality/extra" in report.new
    assert "model/tokens/tables/depth" in report.dropped and "model/tokens/modality/depth" in report.dropped
    assert "1 dropped" not in str(report) and "new: " in str(report)
    assert str(report) == check_start(Origin(held(old), {}), jax.eval_shape(lambda: params(new)), roles(new))


def towers(embed_dim=8):
    """4M's trunk beside a tower of its own for captions."""
    text = tower.Config("words", ("caption",), dim=8, heads=2, depth=1, pool="last", causal=True)
    trunk = encdec.Config(
        dim=16, heads=2, encoder_depth=2, decoder_depth=1, embed_dim=embed_dim, dtype="float32", mlp_ratio=2.0
    )
    return multimodal.Config(towers=(text,), embed_dim=embed_dim, trunk=trunk, dtype="float32")


@pytest.mark.parametrize("kind", ["encdec", "towers"])
def test_any_order_of_modalities_is_the_same_run(kind):
    """The losses of a batch, masked and contrastive, with the draws that they take: rows and draws go by names."""
    mixed = dict(inputs={m.name: 0.5 for m in OLD}, targets={m.name: 0.5 for m in OLD})

    def losses(modalities, held=None):
        objectives = {
            "masked": masked.Objective(
                tiny.context(modalities), input_tokens=(4, 12), target_tokens=(4, 12),
                mixture=(masked.Mixture(**mixed),),
            ),
            "contrastive": contrastive.Objective(
                Context(modalities), edges=(Edge("image", "caption"), Edge("depth", "image")), grid_tokens=5
            ),
        }  # fmt: skip
        embedded = tuple(m.name for m in modalities if m.name in ("image", "caption", "depth"))
        if kind == "encdec":
            made = tiny.model(embedded, modalities)
        else:
            made = multimodal.Model(towers(), modalities, embedded, nnx.Rngs(0))
        own = params(made) | {"objective": {n: values(o.init(jax.random.key(0))) for n, o in objectives.items()}}
        own_roles = Roles({"model": variables(made), "objective": {n: o.init(None) for n, o in objectives.items()}})
        if held:
            own, report = start_from(held, own, own_roles)
            assert not report.new and not report.dropped
        batch = jax.tree.map(jnp.asarray, tiny.batch(8, modalities=OLD))
        run = jax.jit(lambda p, b, k: evaluate_objectives(nnx.split(made)[0], p, objectives, b, k, train=True))
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
    got, report = start_from(held(tiny.model(modalities=OLD)), params(new), roles(new))
    rows = got["model"]["tokens"]["learned"]["codes"]
    old = params(tiny.model(modalities=OLD))["model"]["tokens"]["learned"]["codes"]
    np.testing.assert_array_equal(rows[::2], old)
    np.testing.assert_allclose(rows[1], (old[0] + old[1]) / 2, rtol=1e-6)
    assert report.resized == ("model/tokens/learned/codes 4 → 7",)
    np.testing.assert_array_equal(resize(old, 4), old)


@pytest.mark.parametrize("changes", [dict(dim=32), dict(encoder_depth=3), dict(gated=False), dict(bias=True)])
def test_another_trunk_is_refused(changes):
    with pytest.raises(ValueError, match=r"config.init: .*(sizes of that model|kind of blocks)"):
        new = tiny.model(modalities=OLD, **changes)
        start_from(held(tiny.model(modalities=OLD)), params(new), roles(new))
