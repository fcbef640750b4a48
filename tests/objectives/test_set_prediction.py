"""MDETR's set prediction: against NumPy and SciPy, sharded, accumulated, its traps, and wrong settings."""

import copy
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P
from scipy.optimize import linear_sum_assignment

from configs.systems import mdetr
from pretrain import build
from pretrain.models.passes import draw, evaluate
from pretrain.restore import init_function
from pretrain.step import accumulate, example_keys, forward

SIZE, TOKENS, BOXES, QUERIES, LAYERS, POSITIONS, T = 8, 6, 3, 5, 2, 9, 0.07


def config(phrases=None, network=None, **objective) -> dict:
    """phrases: of the label; network: {part: changes}; objective: changes of it, and of align as align__KEY."""
    align = {k.removeprefix("align__"): v for k, v in objective.items() if k.startswith("align__")}
    plain = {k: v for k, v in objective.items() if not k.startswith("align__")}
    sizes = dict(dim=16, heads=2, mlp_ratio=2.0, encoder=1, decoder=LAYERS, queries=QUERIES, positions=POSITIONS)
    model = mdetr.model(**sizes, towers=dict(dim=16, heads=2, depth=0), align=8, waves=(1.0, 20.0))
    for part, changes in (network or {}).items():
        model["parts"][part] = model["parts"][part] | changes
    label = dict(name="phrases", kind="phrases", shape=(TOKENS, BOXES), field="phrases", tokenizer="none")
    return dict(
        steps=2, batch_size=SIZE, data=dict(source="none"), optim=dict(warmup=0),
        modalities=[
            dict(name="image", kind="pixels", shape=(8, 12, 3), field="image", patch=4, mean=(0.5,) * 3, std=(0.5,) * 3,
                 targets=False),
            dict(name="text", kind="sequence", shape=(TOKENS,), field="text", vocab="words", vocab_size=9,
                 tokenizer="none"),
        ],
        labels=[dict(name="boxes", kind="boxes", shape=(BOXES, 4), field="boxes"), label | (phrases or {})],
        model=model | dict(dtype="float32"), objectives=dict(found=mdetr.objective(**align) | plain),
    )  # fmt: skip


class Built:
    """The objective, graph and parameters of a config, none of them trivial."""

    def __init__(self, **changes):
        run = build.parse(config(**changes))
        self.objectives = build.objectives(run)
        self.objective = self.objectives["found"]
        self.graphs, init = init_function(build.models(run, self.objectives), self.objectives, 0)
        keys = iter(jax.random.split(jax.random.key(7), 200))
        self.params = jax.tree.map(lambda x: x + 0.3 * jax.random.normal(next(keys), x.shape), init(jax.random.key(0)))

    @functools.cached_property
    def gradient(self):
        """(parameters, batch) → (loss, gradient)."""
        return jax.jit(jax.value_and_grad(lambda p, b: self.forward(p, b)[0]))

    def forward(self, params, batch):
        given = batch | {"step": jnp.zeros(SIZE, jnp.int32)}
        return forward(self.graphs, params, self.objectives, given, example_keys(0, 0, SIZE), train=True)

    def outputs(self, batch):
        """{name: value} of the nodes that it asks for."""
        nodes, keys = self.objective.passes(True), example_keys(0, 0, SIZE)
        models = {"online": nnx.merge(self.graphs["online"], self.params["model"])}

        @jax.jit
        def run(batch):
            values = evaluate(nodes.values(), models, draw(nodes.values(), batch, keys), keys)
            return [values[node] for node in nodes.values()]

        return dict(zip(nodes, run(batch)))


def data(seed=0, full=False) -> dict:
    """Scenes with one to three boxes, and, unless `full`, one without text, without picture, without boxes, and a box
    that no token names."""
    rng = np.random.default_rng(seed)
    length = np.full(SIZE, TOKENS) if full else rng.integers(2, TOKENS + 1, SIZE)
    count = np.full(SIZE, BOXES) if full else rng.integers(1, BOXES + 1, SIZE)
    valid, boxes = np.arange(TOKENS) < length[:, None], np.arange(BOXES) < count[:, None]
    low, size = rng.uniform(0, 0.6, (2, SIZE, BOXES, 2))
    named = (rng.random((SIZE, TOKENS, BOXES)) < 0.4) | (np.arange(TOKENS)[:, None] == np.arange(BOXES))
    named = named & valid[..., None] & boxes[:, None]
    shown = np.ones(SIZE, bool)
    if not full:
        valid[1], shown[2], boxes[3], named[5, :, 0] = False, False, False, False
    image = rng.integers(256, size=(SIZE, 8, 12, 3), dtype=np.uint8)
    corners = np.concatenate([low, low + 0.1 + size / 2], -1).astype(np.float32) * boxes[..., None]
    return {
        "row": np.arange(SIZE), "image": {"pixels": image, "valid": shown},
        "text": {"ids": rng.integers(9, size=(SIZE, TOKENS)).astype(np.int16) * valid, "valid": valid},
        "boxes": {"vectors": corners, "valid": boxes},
        "phrases": {"vectors": named.astype(np.float32), "valid": valid},
    }  # fmt: skip


# -- The formula ---------------------------------------------------------------------------------------------------


def numpy_overlap(a, b):
    """GIoU of two boxes of centre and size."""
    (al, at, ar, ab), (bl, bt, br, bb) = ([x - w / 2, y - h / 2, x + w / 2, y + h / 2] for x, y, w, h in (a, b))
    both = max(min(ar, br) - max(al, bl), 0) * max(min(ab, bb) - max(at, bt), 0)
    union = (ar - al) * (ab - at) + (br - bl) * (bb - bt) - both
    hull = (max(ar, br) - min(al, bl)) * (max(ab, bb) - min(at, bt))
    return both / union - (hull - union) / hull


def softmax(x):
    e = np.exp(x - x.max())
    return e / e.sum()


def numpy_loss(found, batch, mask_pad=True, align=True):
    """The loss of {"boxes", "logits", "z": `[layers, B, Q, …]`, "tokens": `[B, L, …]` of the text}, in float64."""
    total, has = 0.0, batch["text"]["valid"].any(1) & batch["image"]["valid"]
    count = max((batch["boxes"]["valid"] & has[:, None]).sum(), 1)
    unit = lambda x: x / np.linalg.norm(x, axis=-1, keepdims=True)
    for layer in range(LAYERS):
        for i in np.flatnonzero(has):
            which = np.flatnonzero(batch["boxes"]["valid"][i])
            wanted = [
                np.array([(left + r) / 2, (t + b) / 2, r - left, b - t])
                for left, t, r, b in batch["boxes"]["vectors"][i][which].astype(np.float64)
            ]
            boxes, logits = found["boxes"][layer][i], found["logits"][layer][i]
            p, maps = np.array([softmax(x) for x in logits]), np.zeros((len(which), POSITIONS))
            maps[:, :TOKENS] = batch["phrases"]["vectors"][i][:, which].T
            maps /= maps.sum(1, keepdims=True) + 1e-6
            cost = np.array([
                [-x @ m + 5 * np.abs(box - b).sum() - 2 * numpy_overlap(box, b) for m, b in zip(maps, wanted)]
                for x, box in zip(p, boxes)
            ]).reshape(QUERIES, len(which))  # fmt: skip
            at = dict(zip(*linear_sum_assignment(cost)))
            for q in range(QUERIES):
                if q not in at:
                    total -= 0.1 * np.log(p[q, -1])
                    continue
                total -= maps[at[q]] @ np.log(p[q])
                total += 5 * np.abs(boxes[q] - wanted[at[q]]).sum()
                total += 2 * (1 - numpy_overlap(boxes[q], wanted[at[q]]))
            if align:
                valid, named = batch["text"]["valid"][i], batch["phrases"]["vectors"][i][:, which] > 0
                s = unit(found["z"][layer][i]) @ unit(found["tokens"][i]).T / T
                positive = np.array([named[:, at[q]] if q in at else np.zeros(TOKENS, bool) for q in range(QUERIES)])
                for q in np.flatnonzero(positive.any(1)):
                    among = s[q][valid] if mask_pad else s[q]
                    total += (np.log(np.exp(among).sum()) - s[q][positive[q]].mean()) / 2
                for n in np.flatnonzero(positive.any(0)):
                    total += (np.log(np.exp(s[:, n]).sum()) - s[:, n][positive[:, n]].mean()) / 2
    return total / count


def arrays(outputs):
    """What `numpy_loss` reads of the outputs of the network, in float64."""
    layers = lambda key, of: np.stack([of(outputs[key, i]) for i in range(LAYERS)]).astype(np.float64)
    text = np.asarray(outputs["tokens"][:, -TOKENS:], np.float64)
    same = lambda x: x
    return dict(
        boxes=layers("boxes", lambda s: s.x), logits=layers("logits", same), z=layers("z", same), tokens=text
    )  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("mask_pad", [True, False])
def test_the_loss_and_its_gradient_equal_numpy(mask_pad):
    built, batch = Built(align__mask_pad=mask_pad), data()
    outputs = built.outputs(batch)
    found, one = arrays(outputs), built.objective
    loss, _ = built.forward(built.params, batch)
    np.testing.assert_allclose(loss, numpy_loss(found, batch, mask_pad), rtol=2e-5)

    def of(changed):
        """The loss as a function of the four arrays."""
        given = dict(outputs)
        for i in range(LAYERS):
            given["boxes", i] = given["boxes", i]._replace(x=changed["boxes"][i])
            given |= {(key, i): changed[key][i] for key in ("logits", "z")}
        given["tokens"] = outputs["tokens"].at[:, -TOKENS:].set(changed["tokens"])
        totals = one.totals({}, given, train=True, run=None)
        return sum(one.loss_weight(k) * totals[k] / w for k, w in one.weights(outputs).items())

    grads = jax.jit(jax.grad(of))({k: jnp.float32(x) for k, x in found.items()})
    rng = np.random.default_rng(0)
    for key, grad in grads.items():
        largest = np.argsort(-np.abs(np.asarray(grad)), axis=None)[:3]
        for flat in [*largest, *rng.integers(grad.size, size=5)]:
            place, moved = np.unravel_index(flat, grad.shape), []
            for step in (1e-6, -1e-6):
                other = copy.deepcopy(found)
                other[key][place] += step
                moved.append(numpy_loss(other, batch, mask_pad))
            want = (moved[0] - moved[1]) / 2e-6
            np.testing.assert_allclose(grad[place], want, rtol=1e-3, atol=1e-6, err_msg=f"{key} {place}")


def test_without_alignment_it_equals_numpy():
    built, batch = Built(), data()
    other, found = Built(align=None), arrays(built.outputs(batch))
    np.testing.assert_allclose(other.forward(built.params, batch)[0], numpy_loss(found, batch, align=False), rtol=2e-5)


def test_every_layer_has_a_gradient_and_the_last_is_what_is_evaluated():
    built, batch = Built(), data()
    _, grads = built.gradient(built.params, batch)
    for part, tree in grads["model"].items():
        assert part == "text_pool" or all(np.abs(x).max() > 0 for x in jax.tree.leaves(tree)), part
    passes, found = built.objective.passes(True), built.objective.found()
    assert found["logits"] == passes["logits", LAYERS - 1] and found["boxes"] == passes["boxes", LAYERS - 1]
    _, (terms, _) = built.forward(built.params, batch)
    assert 0 < terms["found/iou"].total < terms["found/iou"].weight


# -- Accumulated and sharded ---------------------------------------------------------------------------------------


@pytest.mark.slow
def test_accumulation_changes_nothing():
    """Microbatches have other numbers of boxes, one of them none; all divide by those of the whole batch."""
    built, batch = Built(), data()
    batch["boxes"]["valid"][:2] = False
    loss, grads = built.gradient(built.params, batch)
    stepped, keys = batch | {"step": np.zeros(SIZE, np.int32)}, example_keys(0, 0, SIZE)
    run = jax.jit(lambda p, b: accumulate(built.graphs, p, built.objectives, b, keys, 4))
    found, _, summed = run(built.params, stepped)
    np.testing.assert_allclose(found, loss, rtol=2e-6)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5), summed, grads)


@pytest.mark.slow
def test_eight_devices_are_one():
    built, batch = Built(), data()
    loss, grads = built.gradient(built.params, batch)
    mesh = jax.make_mesh((8,), ("data",), axis_types=(AxisType.Auto,))
    put = lambda x: jax.device_put(jnp.asarray(x), NamedSharding(mesh, P("data")))
    given = jax.tree.map(put, batch)
    found, sharded = built.gradient(built.params, given)
    assert len(given["boxes"]["vectors"].sharding.device_set) == 8
    np.testing.assert_allclose(found, loss, rtol=2e-6)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5), sharded, grads)


# -- Traps ---------------------------------------------------------------------------------------------------------


def test_padding_is_in_the_denominator_unless_it_is_masked():
    """The release sums over the empty slots of a text, too."""
    masked, released = Built(align__mask_pad=True), Built(align__mask_pad=False)
    align = lambda built, batch: built.forward(built.params, batch)[1][0]["found/align"].total
    ragged, full = data(), data(full=True)
    assert align(released, ragged) > align(masked, ragged) + 1
    np.testing.assert_allclose(align(released, full), align(masked, full), rtol=1e-6)
    filled = ragged | {"text": ragged["text"] | {"ids": np.where(ragged["text"]["valid"], ragged["text"]["ids"], 5)}}
    np.testing.assert_allclose(align(masked, filled), align(masked, ragged), rtol=1e-6)
    assert align(released, filled) != align(released, ragged), "there what stands in them matters"


def test_a_batch_without_boxes_divides_by_one():
    built, batch = Built(), data()
    batch["boxes"]["valid"][:] = False
    loss, grads = built.gradient(built.params, batch)
    logits = np.stack([built.outputs(batch)["logits", i] for i in range(LAYERS)])
    shown = batch["text"]["valid"].any(1) & batch["image"]["valid"]
    nothing = -np.asarray(jax.nn.log_softmax(logits))[:, shown, :, -1].sum()
    np.testing.assert_allclose(loss, 0.1 * nothing, rtol=1e-5)
    assert all(np.isfinite(x).all() for x in jax.tree.leaves(grads))


def test_what_is_not_shown_or_not_valid_changes_nothing():
    built, batch = Built(), data()
    loss, _ = built.gradient(built.params, batch)
    other = copy.deepcopy(batch)
    other["boxes"]["vectors"][~other["boxes"]["valid"]] = np.random.default_rng(5).random(4)
    other["boxes"]["vectors"][1] = 0.5, 0.5, 0.7, 0.7  # of an example that has no text
    other["phrases"]["vectors"][np.broadcast_to(~other["boxes"]["valid"][:, None], (SIZE, TOKENS, BOXES))] = 1
    np.testing.assert_allclose(built.gradient(built.params, other)[0], loss, rtol=1e-6)


def test_boxes_and_queries_have_no_order():
    built, batch, rng = Built(), data(full=True), np.random.default_rng(3)
    loss, grads = built.gradient(built.params, batch)
    turned = copy.deepcopy(batch)
    for i in range(SIZE):
        order = rng.permutation(BOXES)
        turned["boxes"]["vectors"][i] = batch["boxes"]["vectors"][i][order]
        turned["phrases"]["vectors"][i] = batch["phrases"]["vectors"][i][:, order]
    found, same = built.gradient(built.params, turned)
    np.testing.assert_allclose(found, loss, rtol=1e-6)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5), same, grads)
    order, params = rng.permutation(QUERIES), jax.tree.map(lambda x: x, built.params)
    params["model"]["queries"]["queries"] = built.params["model"]["queries"]["queries"][order]
    np.testing.assert_allclose(built.gradient(params, batch)[0], loss, rtol=2e-6)


def test_a_closed_set_of_classes_stands_where_tokens_would():
    """The control of the experiment: a label of classes instead of positions, which alignment could not read."""
    built = Built(phrases=dict(shape=(POSITIONS - 1, BOXES)), align=None)
    batch = data()
    classes = np.eye(POSITIONS - 1, dtype=np.float32)[np.random.default_rng(0).integers(8, size=(SIZE, BOXES))]
    batch["phrases"] = {"vectors": classes.swapaxes(1, 2), "valid": np.ones((SIZE, POSITIONS - 1), bool)}
    assert np.isfinite(built.forward(built.params, batch)[0])


# -- What is refused -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "changes, error",
    [
        (dict(inputs=("image", "nose")), r"inputs=\('image', 'nose'\): must be of the run's modalities, image, text"),
        (dict(text="image"), r"text='image': name a text of inputs=\('image', 'text'\)"),
        (dict(boxes="phrases"), "boxes='phrases': no labels of kind 'boxes' in config.labels; there are: boxes"),
        (dict(phrases=dict(shape=(TOKENS, 2))), "phrases='phrases': of 2 objects, but 'boxes' has 3"),
        (dict(l1=-1.0), "l1=-1.0: must not be negative"),
        (dict(no_object=-0.1), "no_object=-0.1: must not be negative"),
        (dict(box_head="nose"), "box_head='nose': the network has no such part"),
        (dict(box_head="tokens"), "box_head='tokens': must give four numbers of each query"),
        (dict(token_head="boxes"), "token_head='boxes': must be a `predict` of dim=7 or more"),
        (dict(network=dict(tokens=dict(dim=6))), "token_head='tokens': must be a `predict` of dim=7 or more"),
        (dict(token_head="align_tokens"), "token_head='align_tokens': reads 'encoder': let it read a `query_decoder`"),
        (dict(network=dict(boxes=dict(reads=["encoder"]))), "box_head='boxes': must read 'queries', as 'tokens' does"),
        (dict(network=dict(queries=dict(queries=2))), "boxes='boxes': 3 of an example; 'queries' has 2 queries"),
        (dict(align__queries="align_tokens"), "align.queries='align_tokens': must read 'queries'"),
        (dict(align__tokens="align_queries"), "align.tokens='align_queries': must read 'encoder', as 'queries' does"),
        (dict(network=dict(align_tokens=dict(dim=4))), "align.tokens='align_tokens': must be a `predict` of as many"),
        (dict(phrases=dict(shape=(8, BOXES))), "phrases='phrases': must have the length and the tokenizer of 'text'"),
        (dict(phrases=dict(tokenizer="t")), "phrases='phrases': must have the length and the tokenizer of 'text'"),
        (dict(align__temperature=0.0), "align.temperature=0.0: must be above 0"),
        (dict(align__weight=-1.0), "align.weight=-1.0: must not be negative"),
        (dict(network=dict(both=dict(reads=["vision", "vision"]))), r"inputs=.*: 'queries' never reads text"),
    ],
)  # fmt: skip
def test_wrong_settings_are_named(changes, error):
    with pytest.raises(ValueError, match=f"objectives.*{error}"):
        build.objectives(build.parse(config(**changes)))
