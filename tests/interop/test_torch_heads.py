"""What fine-tuning adds to a network, in PyTorch: heads, adapters, prompts; the same numbers to 1e-5 in fp32."""

import dataclasses
import importlib.util
import json
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny
from flax import nnx

from data_pipeline.spec import Modality
from pretrain.interop.torch import export, from_state_dict, to_state_dict
from pretrain.models.passes import compute
from pretrain.objectives import classification, dense
from pretrain.parameters import values
from pretrain.restore import Restored

PIXELS = Modality(
    "pixels", "pixels", (8, 12, 3), "pixels", patch=4, mean=(0.5, 0.4, 0.3), std=(0.2,) * 3, targets=False
)
MODALITIES = (*tiny.MODALITIES, PIXELS, Modality("vectors", "vectors", (3, 7), "vectors", targets=False))
LABELS = (
    Modality("kind", "labels", (1,), "kind", vocab_size=3, classes=("ant", "bee", "cat")),
    Modality("segments", "pixels", (9, 15, 1), "segments", resample="nearest", vocab_size=5),
    Modality("metres", "pixels", (3, 4, 1), "metres", resample="nearest"),
)
SHOWN = ("image", "pixels", "vectors", "caption")
GIVEN, PROBED = (tiny.context(MODALITIES, LABELS, pool_queries=n) for n in (0, 2))
HEADS = {
    "classes": (classification.Objective(GIVEN, inputs=SHOWN, label="kind"), {}),
    "probed": (classification.Objective(PROBED, inputs=SHOWN, label="kind", pool="queries"), dict(pool_queries=2)),
    # Larger than the places that the head sees, and smaller: there the resizing takes means.
    "segments": (dense.Objective(GIVEN, inputs=SHOWN, grid="pixels", label="segments", width=6, up=2, blocks=2), {}),
    "metres": (dense.Objective(GIVEN, inputs=SHOWN, grid="image", label="metres", loss="l1", width=6, blocks=1), {}),
}


def stir(tree, scale: float = 0.2):
    return jax.tree.map(lambda x: x + scale * jnp.cos(1.0 + jnp.arange(x.size)).reshape(x.shape), tree)


def fine_tuned(name: str, **changes) -> Restored:
    objective, more = HEADS[name]
    # A network keeps its queries for what it embeds.
    changes = dict(decoder_depth=0) | more | changes
    graph, params = nnx.split(tiny.model(objective.inputs if more else (), MODALITIES, seed=1, **changes))
    own = stir(values(objective.init(jax.random.key(1))))
    run = types.SimpleNamespace(model=dataclasses.asdict(tiny.config(**changes)), modalities=MODALITIES)
    params = {"model": nnx.to_pure_dict(params), "objective": {name: own}}
    return Restored(run, {name: objective}, {"online": graph}, params, init=None)


@pytest.mark.slow
@pytest.mark.parametrize("changes", [dict(), dict(adapter=3, registers=2)], ids=["plain", "adapters-prompts"])
@pytest.mark.parametrize("name", HEADS)
def test_heads_equal_ours(name, changes, tmp_path):
    torch = pytest.importorskip("torch")
    restored, batch = fine_tuned(name, **changes), tiny.batch(6, seed=4, modalities=MODALITIES, missing=0.0)
    batch["caption"]["valid"][0] = False
    objective, model = restored.objectives[name], restored.model
    node = objective.passes(train=False)[objective.reads]
    ours = objective.predict(restored.params["objective"][name], compute(model, {"x": node}, batch)["x"])

    folder = export(restored, tmp_path / "out")
    spec = importlib.util.spec_from_file_location("tokenloom_torch", folder / "tokenloom_torch.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    theirs = module.load(folder)
    given = {n: batch[n].get("pixels", batch[n].get("vectors")) for n in ("image", "pixels", "vectors")}
    given["image"] = batch["image"]["ids"]
    given["caption"] = np.where(batch["caption"]["valid"], batch["caption"]["ids"], -1)
    inputs, rows = theirs.tokens({n: torch.from_numpy(given[n]) for n in SHOWN})
    with torch.no_grad():
        x = theirs.encode(*inputs, rows)
        said = theirs.predict(x, inputs, name)
        np.testing.assert_allclose(said, ours, atol=1e-5, rtol=1e-5)
        assert said.shape == (
            (6, 3) if name in ("classes", "probed") else (6, *objective.target.shape[:2], objective.outputs)
        )
        assert np.abs(np.asarray(ours)).max() > 0.1
        with pytest.raises(ValueError, match=f"'{name}' reads .*'image', 16.*whole and in this order"):
            theirs.predict(x[:, 1:], [f[:, 1:] for f in inputs], name)
        with pytest.raises(ValueError, match="this model has no decoder"):
            theirs.decode(x, inputs, inputs)
    about = json.loads((folder / "config.json").read_text())["predictors"][name]
    assert about["kind"] == ("dense" if "grid" in about else "classification")
    assert about.get("classes", list(LABELS[0].classes)) == ["ant", "bee", "cat"]


def test_the_round_trip_is_bit_identical():
    restored = fine_tuned("segments", adapter=3)
    tree = restored.params["model"] | {"predictors": restored.params["objective"]}
    state = to_state_dict(tree)
    assert state["predictors.segments.blocks.1.depthwise.weight"].shape == (6, 1, 7, 7)
    kernel = tree["predictors"]["segments"]["blocks"]["depthwise"]["kernel"]
    assert state["predictors.segments.blocks.1.depthwise.weight"][4, 0, 2, 5] == kernel[1, 2, 5, 0, 4]
    jax.tree.map(np.testing.assert_array_equal, from_state_dict(state, jax.eval_shape(lambda: tree)), tree)
