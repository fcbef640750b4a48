"""The masked objective: its loss against dense log-softmax, its bookkeeping, and what it says of a wrong config."""

import jax
import numpy as np
import pytest
import tiny
from flax import nnx
from tiny import MODALITIES

from pretrain.models.predictor import Predictor
from pretrain.objectives.base import weighted_sum
from pretrain.objectives.masked import Mixture, Objective
from pretrain.step import evaluate_objectives

NAMES = [m.name for m in MODALITIES]


def objective(inputs=None, targets=None, modalities=MODALITIES, **changes):
    mixture = (Mixture(inputs or dict.fromkeys(NAMES, 0.5), targets or dict.fromkeys(NAMES, 0.5)),)
    options = dict(input_tokens=(4, 10), target_tokens=(8, 12), mixture=mixture) | changes
    return Objective(tiny.context(modalities), **options)


def test_loss_is_the_mean_over_modalities_of_mean_cross_entropies():
    model, batch = tiny.model(), tiny.without(tiny.batch(8), "depth")
    graph, params = nnx.split(model)
    one, keys = objective(coef=0.7), jax.random.split(jax.random.key(0), 8)
    loss, terms = jax.jit(
        lambda p: evaluate_objectives(
            {"online": graph}, {"model": p, "objective": {"m": {}}}, {"m": one}, batch, keys, train=True
        )
    )(params)

    @jax.jit
    def dense(params):
        predictor, view = Predictor(nnx.merge(graph, params)), one._masking(batch, keys)
        queries = view["queries"].tokens
        y = predictor.decode(predictor.encode(view["inputs"]), queries).x
        return {m.vocab: predictor.logits(y, m.vocab) for m in MODALITIES}, queries, view["labels"]

    logits, queries, labels = jax.device_get(dense(params))
    means = {}
    for i, m in enumerate(MODALITIES):
        mine = queries.valid & (queries.modality == i)
        x = logits[m.vocab][mine].astype(np.float64)
        nll = np.log(np.exp(x).sum(-1)) - x[np.arange(len(x)), labels[mine]]
        assert terms[f"m/{m.name}"].weight == mine.sum()
        np.testing.assert_allclose(terms[f"m/{m.name}"].total, nll.sum(), rtol=1e-5)
        means[m.name] = nll.mean() if mine.any() else 0.0
    assert means["depth"] == 0 and sum(v > 0 for v in means.values()) == 3
    np.testing.assert_allclose(loss, 0.7 * sum(means.values()) / 4, rtol=1e-5)


def test_token_mean_is_the_mean_over_all_predicted_tokens():
    """Every token counts the same. (The `token` loss of apple/ml-4m weights it by the size of its vocabulary.)"""
    graph, params = nnx.split(tiny.model())
    one, keys, batch = objective(loss="token_mean"), jax.random.split(jax.random.key(0), 8), tiny.batch(8)
    loss, terms = jax.jit(
        lambda p: evaluate_objectives(
            {"online": graph}, {"model": p, "objective": {"m": {}}}, {"m": one}, batch, keys, train=True
        )
    )(params)
    parts = [terms[f"m/{n}"] for n in NAMES]
    np.testing.assert_allclose(loss, sum(t.total for t in parts) / sum(t.weight for t in parts), rtol=1e-6)
    by_modality = np.mean([t.total / max(t.weight, 1) for t in parts])
    assert abs(loss - by_modality) > 1e-3


@pytest.mark.slow
def test_z_loss_and_smoothing_are_of_the_training_loss_only():
    graph, params = nnx.split(tiny.model())
    keys, batch = jax.random.split(jax.random.key(0), 8), tiny.batch(8)

    def loss(train, **options):
        one = objective(**options)
        return evaluate_objectives(
            {"online": graph}, {"model": params, "objective": {"m": {}}}, {"m": one}, batch, keys, train=train
        )[0]  # fmt: skip

    assert loss(False, z_loss=0.1, label_smoothing=0.1) == loss(False)
    assert loss(True, z_loss=0.1) > loss(True) == loss(False)
    assert loss(True, label_smoothing=0.1) != loss(True)


def test_absent_everything_is_zero_and_has_no_nan():
    graph, params = nnx.split(tiny.model())
    batch, keys, one = tiny.batch(4, missing=1.0), jax.random.split(jax.random.key(0), 4), objective()

    def loss(p):
        return evaluate_objectives(
            {"online": graph}, {"model": p, "objective": {"m": {}}}, {"m": one}, batch, keys, train=True
        )[0]

    value, grads = jax.jit(jax.value_and_grad(loss))(params)
    assert value == 0 and all(np.isfinite(g).all() for g in jax.tree.leaves(grads))


def test_only_modalities_that_can_be_asked_for_are_terms():
    one = objective(targets={"image": 1.0, "label": 0.0, "caption": 2.0})
    assert one.targets == ["image", "caption"] and one.loss_weight("image") == 0.5
    assert one.init(jax.random.key(0)) == {} and one.tokens_per_example == 22


def test_terms_without_weight_add_nothing():
    one = objective(targets={"image": 1.0, "caption": 1.0})
    assert float(weighted_sum(one, {"image": 6.0, "caption": 0.0}, {"image": 3.0, "caption": 0.0})) == 1.0


@pytest.mark.parametrize(
    "changes, message",
    [
        (dict(loss="mod"), r"objectives.masked.loss='mod': must be one of modality_mean, token_mean"),
        (dict(fill="some"), r"objectives.masked.fill='some'"),
        (dict(head="heads"), "objectives.masked.head='heads': the network has no such part; it has embed, encoder, de"),
        (dict(label_smoothing=1.0), r"label_smoothing=1.0"),
        (dict(input_tokens=(40, 50)), r"input_tokens=\(40, 50\): no component .* can meet 40 tokens, .* at most 37"),
        (
            dict(mixture=(Mixture({"image": 1.0}, {"image": 1.0}, keep={"image": "all"}),)),
            r"keep\['image'\].*no sequence",
        ),
        (dict(mixture=(Mixture({"image": 1.0}, {"image": 1.0}, keep={"label": "most"}),)), r"keep\['label'\]='most'"),
        (
            dict(inputs={"picture": 1.0}),
            r"mixture\[0\].inputs\['picture'\]=1.0: no such modality; the run has image, depth",
        ),
        (dict(targets={"image": -2.0}), r"mixture\[0\].targets\['image'\]=-2.0: .*must not be negative"),
        (dict(inputs={"image": 0.0}), r"mixture\[0\].inputs: needs at least one positive alpha"),
        (dict(input_tokens=(5, 4)), r"input_tokens=\(5, 4\): needs 0 <= smallest <= largest"),
        (dict(target_tokens=(0, 0)), r"target_tokens=\(0, 0\)"),
        (dict(target_tokens=(-1, 4)), r"target_tokens=\(-1, 4\)"),
    ],
    ids=str,
)
def test_config_errors_name_key_and_value(changes, message):
    with pytest.raises(ValueError, match=message):
        objective(**changes)


@pytest.mark.parametrize("side", ["inputs", "targets"])
def test_a_modality_that_may_not_be_there(side):
    modalities = (tiny.replace(MODALITIES[0], **{side: False}), *MODALITIES[1:])
    with pytest.raises(ValueError, match=rf"{side}\['image'\]=0.5: the modality's spec says {side}=False"):
        objective(modalities=modalities)


def test_texts_without_sentinels_are_named_where_they_are_masked():
    """Ids of letters would stand for masked spans."""
    letters = tiny.replace(MODALITIES[2], vocab="letters", vocab_size=30, tokenizer="characters")
    modalities = (*MODALITIES[:2], letters, MODALITIES[3])
    with pytest.raises(ValueError, match=r"'caption': tokenizer='characters' has no ids that stand for masked sp"):
        objective(modalities=modalities)
    assert objective(modalities=modalities, inputs={"image": 1.0}, targets={"image": 1.0})
