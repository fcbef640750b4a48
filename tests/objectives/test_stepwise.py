"""MultiModN's objective and state: against NumPy, sharded, accumulated, with what is missing, and wrong settings."""

import copy

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

from configs.systems.multimodn import parts
from pretrain import build
from pretrain.models.tokens import Whole
from pretrain.objectives.absence import Absent
from pretrain.restore import init_function
from pretrain.step import accumulate, example_keys, forward

ORDER, SIZE, STATE = ("b", "a", "c"), 8, 6  # not the order of the run's modalities
WIDTHS = dict(a=(1, 5), b=(1, 3), c=(4, 2))
LABELS = dict(x=3, y=2)
DECODERS = {label: f"decode_{label}" for label in LABELS}


def config(names=tuple(WIDTHS), squashed=False, **objective) -> dict:
    layers = dict(state=STATE, hidden=(7,), decoders=LABELS, squashed=squashed)
    stepwise = dict(inputs=ORDER, decoders=DECODERS, error=0.7, change=30.0) | objective
    return dict(
        steps=2, batch_size=SIZE, data=dict(source="none"), optim=dict(warmup=0),
        modalities=[dict(name=n, kind="vectors", shape=WIDTHS[n], field=n, targets=False) for n in names],
        labels=[dict(name=n, kind="labels", shape=(1,), field=n, vocab_size=k) for n, k in LABELS.items()],
        model=dict(model="models.network", parts=parts(ORDER, 8, **layers), dtype="float32"),
        objectives=dict(stepwise=stepwise),
    )  # fmt: skip


class Built:
    """Objectives, graph and parameters of a config, none of them trivial."""

    def __init__(self, **changes):
        run = build.parse(config(**changes))
        self.run, self.objectives = run, build.objectives(run)
        self.graphs, init = init_function(build.models(run, self.objectives), self.objectives, 0)
        keys = iter(jax.random.split(jax.random.key(7), 100))
        self.params = jax.tree.map(lambda x: x + 0.3 * jax.random.normal(next(keys), x.shape), init(jax.random.key(0)))

    @property
    def objective(self):
        return self.objectives["stepwise"]

    def loss(self, batch, train=True, params=None):
        """(loss, (terms, statistics)); in training at step 0."""
        given = batch | {"step": np.zeros(SIZE, np.int32)} if train else batch
        keys = example_keys(0, 0, SIZE)
        return forward(self.graphs, params or self.params, self.objectives, given, keys, train=train)

    def gradient(self, batch):
        return jax.jit(jax.value_and_grad(lambda p, b: self.loss(b, params=p)[0]))(self.params, batch)


def data(lacking=True) -> dict:
    rng, out = np.random.default_rng(0), {"row": np.arange(SIZE)}
    for name, shape in WIDTHS.items():
        length = rng.integers(1, shape[0] + 1, SIZE) * (rng.random(SIZE) > 0.4 if lacking else 1)
        valid = np.arange(shape[0]) < length[:, None]
        out[name] = {"vectors": rng.normal(size=(SIZE, *shape)).astype(np.float32), "valid": valid}
    for name, classes in LABELS.items():
        known = rng.random((SIZE, 1)) > 0.25
        out[name] = {"ids": rng.integers(classes, size=(SIZE, 1)).astype(np.int16), "valid": known}
    return out


def numpy_states(model, batch, names=tuple(WIDTHS)):
    """({example: [s_0 …]}, which steps ran), an example and a token at a time, in float64."""
    linear = lambda p, x: x @ np.asarray(p["kernel"], np.float64) + np.asarray(p["bias"], np.float64)
    embed, own, relu = model["embed"], model["state"], lambda x: np.maximum(x, 0)
    states, ran = [], []
    for b in range(SIZE):
        state = np.asarray(own["start"], np.float64)
        states.append([state])
        ran.append([True])
        for name in ORDER:
            outputs = []
            for n in np.flatnonzero(batch[name]["valid"][b]):
                waves = 1.0 / 10000 ** (np.arange(4) / 4)  # 4M's table of positions in a row
                place = np.concatenate([np.sin(n * waves), np.cos(n * waves)])
                x = linear(embed["dense"][name], batch[name]["vectors"][b, n])
                x = x + place + np.asarray(embed["modality"], np.float64)[names.index(name)]
                layers = own["encoders"][name]["linears"]
                h = np.concatenate([x, state])
                for i in sorted(layers):
                    h = relu(linear(layers[i], h))
                outputs.append(h)
            state = np.mean(outputs, 0) if outputs else state
            states[-1].append(state)
            ran[-1].append(bool(outputs))
    return np.asarray(states), np.asarray(ran)


def numpy_loss(params, batch, squashed=False, every=True):
    model = params["model"]
    states, ran = numpy_states(model, batch)
    examples = np.any([batch[n]["valid"][:, 0] for n in LABELS], 0)
    change = np.square(np.diff(states, axis=1)).mean(-1)[examples].sum() / (examples.sum() * len(ORDER))
    total = 0.01 * 30.0 * change
    for label in LABELS:
        nll, layers = 0.0, model[f"decode_{label}"]["layers"]["linears"]
        known = batch[label]["valid"][:, 0]
        for b in np.flatnonzero(known):
            for s in states[b][ran[b]][slice(None) if every else slice(-1, None)]:
                for i in sorted(layers):
                    s = s @ np.asarray(layers[i]["kernel"], np.float64) + np.asarray(layers[i]["bias"], np.float64)
                    last = i == max(layers)
                    s = np.maximum(s, 0) if not last else 1 / (1 + np.exp(-s)) if squashed else s
                nll += np.log(np.exp(s).sum()) - s[batch[label]["ids"][b, 0]]
        total += 0.7 / len(LABELS) * nll / (known.sum() * (len(ORDER) + 1 if every else 1))
    return total


@pytest.mark.parametrize("squashed", [False, True])
def test_equals_numpy(squashed):
    built, batch = Built(squashed=squashed), data()
    loss, grads = built.gradient(batch)
    np.testing.assert_allclose(loss, numpy_loss(built.params, batch, squashed), rtol=1e-5)
    exact = jax.tree.map(lambda x: np.array(x, np.float64), jax.device_get(built.params))
    paths = [  # of every kind of parameter one number
        ("state", "start"), ("embed", "modality"), ("embed", "dense", "c", "kernel"),
        ("state", "encoders", "b", "linears", 0, "kernel"), ("state", "encoders", "a", "linears", 1, "bias"),
        ("decode_x", "layers", "linears", 0, "kernel"), ("decode_y", "layers", "linears", 1, "bias"),
    ]  # fmt: skip
    for path in paths:
        found, moved = grads["model"], []
        for key in path:
            found = found[key]
        at = np.unravel_index(np.abs(found).argmax(), found.shape)
        for step in (1e-5, -1e-5):
            other = copy.deepcopy(exact)
            owner = other["model"]
            for key in path[:-1]:
                owner = owner[key]
            owner[path[-1]][at] += step
            moved.append(numpy_loss(other, batch, squashed))
        np.testing.assert_allclose(found[at], (moved[0] - moved[1]) / 2e-5, rtol=2e-4, err_msg=str(path))


def test_the_last_state_alone_equals_numpy():
    built, batch = Built(every=False), data()
    np.testing.assert_allclose(built.loss(batch)[0], numpy_loss(built.params, batch, every=False), rtol=1e-5)


def test_scores_squashed_by_a_sigmoid_keep_the_loss_above_a_bound():
    """A trap of the release: CE of sigmoids, of which two classes leave log(1 + 1/e) at best."""
    built, batch = Built(squashed=True), data(lacking=False)
    sure = jax.tree.map(lambda x: 100 * x, built.params)
    _, (terms, _) = built.loss(batch, params=sure)
    assert terms["stepwise/y"].total / terms["stepwise/y"].weight >= np.log1p(np.exp(-1.0)) - 1e-6


def test_every_state_is_decoded_and_accuracies_say_behind_which_modality():
    built, batch = Built(), data()
    _, (terms, _) = built.loss(batch, train=False)
    _, ran = numpy_states(built.params["model"], batch)
    known = batch["x"]["valid"][:, 0]
    assert terms["stepwise/x/start"].weight == known.sum() and 0 < ran[:, 1:].mean() < 1
    for i, name in enumerate(ORDER):
        assert terms[f"stepwise/x/{name}"].weight == (known & ran[:, i + 1]).sum()
        assert 0 <= terms[f"stepwise/x/{name}"].total <= terms[f"stepwise/x/{name}"].weight
    # With nothing shown, the first state alone learns.
    nothing = batch | {n: batch[n] | {"valid": np.zeros_like(batch[n]["valid"])} for n in ORDER}
    loss, grads = built.gradient(nothing)
    assert np.abs(grads["model"]["state"]["start"]).max() > 0 and np.isfinite(loss)
    assert all(np.abs(x).max() == 0 for x in jax.tree.leaves(grads["model"]["state"]["encoders"]))


def test_what_lacks_changes_nothing_whatever_stands_there():
    built, batch = Built(), data()
    loss, _ = built.loss(batch)
    filled = copy.deepcopy(batch)
    for name in ORDER:
        filled[name]["vectors"][~batch[name]["valid"]] = 1e3
    np.testing.assert_array_equal(built.loss(filled)[0], loss)


@pytest.mark.slow
@pytest.mark.parametrize("skip, absent", [("example", 0.0), ("batch", 0.0), ("example", 0.5)])
def test_accumulation_changes_nothing(skip, absent):
    built, batch = Built(skip=skip, absent=absent, dropout=0.3), data(lacking=False)
    batch["a"]["valid"][5] = False
    loss, grads = built.gradient(batch)
    stepped, keys = batch | {"step": np.zeros(SIZE, np.int32)}, example_keys(0, 0, SIZE)
    found, _, parts_of = jax.jit(lambda p: accumulate(built.graphs, p, built.objectives, stepped, keys, 4))(
        built.params
    )
    np.testing.assert_allclose(found, loss, rtol=1e-6)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=2e-6), parts_of, grads)
    lost = all(np.abs(x).max() == 0 for x in jax.tree.leaves(grads["model"]["state"]["encoders"]["a"]))
    assert lost == (skip == "batch"), "one example without a modality keeps it from the whole batch, microbatches too"


@pytest.mark.slow
@pytest.mark.parametrize("skip", ["example", "batch"])
def test_eight_devices_are_one(skip):
    built, batch = Built(skip=skip, absent=0.3, dropout=0.3), data()
    loss, grads = built.gradient(batch)
    mesh = jax.make_mesh((8,), ("data",), axis_types=(AxisType.Auto,))
    put = lambda x: jax.device_put(jnp.asarray(x), NamedSharding(mesh, P("data")))
    given = jax.tree.map(put, batch)
    found, sharded = built.gradient(given)
    assert len(given["a"]["vectors"].sharding.device_set) == 8
    np.testing.assert_allclose(found, loss, rtol=1e-6)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=2e-6), sharded, grads)


def test_a_skipped_batch_is_a_batch_without_the_modality():
    built, batch = Built(skip="batch"), data(lacking=False)
    batch["b"]["valid"][2] = False
    without = batch | {"b": batch["b"] | {"valid": np.zeros_like(batch["b"]["valid"])}}
    loss, _ = built.loss(batch)
    np.testing.assert_array_equal(loss, Built().loss(without)[0])
    np.testing.assert_allclose(loss, numpy_loss(built.params, without), rtol=1e-5)
    assert built.loss(batch, train=False)[0] != loss, "evaluation leaves out what an example lacks, and no more"


def test_modalities_go_at_random_one_by_one_and_none_in_evaluation():
    built = Built(absent=0.3)
    modalities, n = built.run.modalities, 4000
    batch = {m: {"vectors": np.ones((n, *WIDTHS[m]), np.float32), "valid": np.ones((n, WIDTHS[m][0]), bool)}
             for m in ORDER}  # fmt: skip
    keys = example_keys(1, 3, n)
    valid = np.asarray(Absent(ORDER, 0.3, False, modalities)(batch, keys).tokens.valid)
    b, a, c = valid[:, 0], valid[:, 1], valid[:, 2:]
    assert (c.all(1) == c.any(1)).all(), "a modality goes with all of its tokens"
    gone = ~np.stack([b, a, c[:, 0]], 1)
    np.testing.assert_allclose(gone.mean(0), 0.3, atol=0.03)
    np.testing.assert_allclose(np.corrcoef(gone.T)[np.triu_indices(3, 1)], 0.0, atol=0.05)
    # The draw has no way to know a label: the same keys take the same, whatever else is in the batch.
    labelled = batch | {"x": {"ids": np.zeros((n, 1), np.int16), "valid": np.ones((n, 1), bool)}}
    again = Absent(ORDER, 0.3, False, modalities)(labelled, keys).tokens.valid
    np.testing.assert_array_equal(again, valid)
    assert built.objective.passes(False)["shown"].make == Whole(ORDER, modalities)
    assert built.loss(data())[0] != Built().loss(data())[0] == Built().loss(data(), train=False)[0]


def test_modalities_in_another_order_of_the_run_compute_the_same():
    """Encoders go by name; the run's order numbers the rows of the modality table alone."""
    built, turned, batch = Built(), Built(names=("c", "b", "a")), data()
    params = jax.tree.map(lambda x: x, built.params)
    params["model"]["embed"]["modality"] = built.params["model"]["embed"]["modality"][jnp.asarray([2, 1, 0])]
    np.testing.assert_allclose(turned.loss(batch, params=params)[0], built.loss(batch)[0], rtol=1e-6)


@pytest.mark.parametrize(
    "changes, error",
    [
        (dict(inputs=("nose",)), r"inputs=\('nose',\): must be of the network's inputs, a, b, c"),
        (dict(decoders={}), r"decoders=\{\}: name the part that scores each label"),
        (dict(decoders=dict(z="decode_x")), "no such labels 'z' in config.labels; there are: x, y"),
        (dict(decoders=dict(x="nothing")), "decoders.x='nothing': the network has no such part"),
        (dict(decoders=dict(x="decode_y")), "'decode_y' gives dim=2 scores, 'x' has 3 classes"),
        (dict(change=-1.0), "change=-1.0: must not be negative"),
        (dict(absent=1.0), "absent=1.0: must be at least 0 and below 1"),
        (dict(dropout=-0.1), "dropout=-0.1: must be at least 0 and below 1"),
        (dict(skip="all"), "skip='all': must be one of example, batch"),
    ],
)
def test_wrong_settings_are_named(changes, error):
    with pytest.raises(ValueError, match=f"objectives.stepwise.*{error}"):
        build.objectives(build.parse(config(**changes)))


def test_decoders_of_another_encoder_are_named():
    c = config()
    c["model"]["parts"]["state"] = dict(part="encoder", reads=("embed",), dim=8, heads=2, depth=2)
    del c["model"]["parts"]["pool"]
    objectives = build.objectives(run := build.parse(c))
    graph, init = init_function(build.models(run, objectives), objectives, 0)
    params = jax.eval_shape(init)
    with pytest.raises(ValueError, match="'state' gives no state before and behind each modality: use a `state`"):
        jax.eval_shape(
            lambda p: forward(graph, p, objectives, data(), example_keys(0, 0, SIZE), train=False)[0], params
        )
    c = config()
    for label in DECODERS.values():
        c["model"]["parts"][label]["reads"] = ("embed",)
    with pytest.raises(ValueError, match="all must read the one part that encodes all inputs, a `state`"):
        build.objectives(build.parse(c))
