"""JAX equals exported PyTorch, to 1e-5 in fp32, and the renaming of weights is exact both ways."""

import dataclasses
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny
from flax import nnx
from tiny import MODALITIES

from data_pipeline.spec import Modality
from pretrain.build import plain
from pretrain.interop.torch import export, from_state_dict, to_state_dict
from pretrain.models.predictor import Predictor
from pretrain.models.tokens import Shown, concat, dense_rows, whole

EMBEDDED = ("image", "caption")


def pure(model):
    return jax.tree.map(np.asarray, nnx.to_pure_dict(nnx.split(model)[1]))


def torch_model(network, **changes):
    """The same network there; changes: those of `tiny.config` with which it was made."""
    import torch

    from pretrain.interop.torch_model import EncDec

    config = {"model": dataclasses.asdict(tiny.config(**changes)), "modalities": plain(network.modalities)}
    theirs = EncDec(config | {"embedded": list(EMBEDDED), "predictors": {}}).eval()
    state = {k: torch.from_numpy(v.copy()) for k, v in to_state_dict(pure(network)).items()}
    theirs.load_state_dict(state, strict=True)
    return theirs


def case():
    """(inputs, queries): all modalities with missing ones; grids and sequences asked for, with empty slots."""
    batch = tiny.batch(4, seed=2)
    inputs = concat([whole(batch, n, MODALITIES) for n in ("depth", "caption", "label")])
    queries = concat([whole(tiny.batch(4, seed=3), n, MODALITIES) for n in ("image", "label", "depth")])
    assert not inputs.valid.all() and not queries.valid.all() and queries.valid.any(1).all()
    return inputs, queries


MORE = (
    *MODALITIES,
    Modality(
        "pixels",
        "pixels",
        (8, 12, 3),
        "pixels",
        patch=4,
        mean=(0.5,) * 3,
        std=(0.2,) * 3,
        targets=False,
        trained_grid=(3, 5),
    ),
    Modality("vectors", "vectors", (3, 7), "vectors", targets=False),
    Modality("codes", "set", (4,), "codes", "codes", 9, tokenizer="codes"),
)


@pytest.mark.slow
@pytest.mark.parametrize(
    "changes",
    [dict(pool_queries=3), dict(gated=False, bias=True, registers=1), dict(tables="untied", qk_norm=True, bias=True),
     dict(tables="split", qk_norm=True, registers=2, pool_queries=2, slopes=(8.0, 1.0))],
    ids=["gated", "bias", "untied", "split"],
)  # fmt: skip
def test_jax_equals_torch(changes):
    torch = pytest.importorskip("torch")
    changes = dict(waves=(0.5, 50.0)) | changes
    network = tiny.model(embedded=EMBEDDED, modalities=MORE, **changes)
    theirs, model = torch_model(network, **changes), Predictor(network)

    inputs, queries = case()
    batch = tiny.batch(4, seed=5, modalities=MORE)
    inputs = concat([inputs, *(whole(batch, n, MORE) for n in ("pixels", "vectors", "codes"))])
    inputs = inputs._replace(ids=jnp.asarray(inputs.ids).at[1, -6].set(7))  # a vector past the last: a sentinel, zeros
    queries = concat([queries, whole(tiny.batch(4, seed=6, modalities=MORE), "codes", MORE)])
    dense = dense_rows(batch, MORE)
    encoded = model.encode(Shown(inputs, dense))
    y = model.decode(encoded, queries).x

    def tensors(tokens):
        return [torch.from_numpy(np.array(a)).to(torch.bool if a.dtype == bool else torch.int64) for a in tokens]

    def same(ours, other, where):
        np.testing.assert_allclose(np.asarray(ours)[where], other.numpy()[where], atol=1e-5, rtol=1e-5)

    with torch.no_grad():
        x_t = theirs.encode(*tensors(inputs), {k: torch.from_numpy(np.array(v)) for k, v in dense.items()})
        y_t = theirs.decode(x_t, tensors(inputs), tensors(queries))
        filled, asked = np.asarray(inputs.valid), np.asarray(queries.valid)
        same(encoded.x, x_t, np.asarray(encoded.valid))
        same(y, y_t, asked)
        for vocab in ("image", "depth", "text", "codes"):
            same(model.logits(y, vocab), theirs.logits(y_t, vocab), asked)
        for name in EMBEDDED:
            ours = network.run("project", network.run("pool", encoded), modality=name)
            same(ours, theirs.embed(x_t, tensors(inputs), name), filled.any(1))


def test_an_example_with_nothing_given_agrees_too():
    torch = pytest.importorskip("torch")
    network = tiny.model(embedded=EMBEDDED)
    theirs, model = torch_model(network), Predictor(network)
    inputs, queries = case()
    inputs = inputs._replace(valid=jnp.zeros_like(inputs.valid))
    ours = np.asarray(model.decode(model.encode(Shown(inputs, {})), queries).x)

    def tensors(tokens):
        return [torch.from_numpy(np.array(a)).to(torch.bool if a.dtype == bool else torch.int64) for a in tokens]

    with torch.no_grad():
        y = theirs.decode(theirs.encode(*tensors(inputs)), tensors(inputs), tensors(queries)).numpy()
    asked = np.asarray(queries.valid)
    np.testing.assert_allclose(ours[asked], y[asked], atol=1e-5, rtol=1e-5)


def test_the_round_trip_is_bit_identical():
    params = pure(tiny.model(bias=True))
    state = to_state_dict(params)
    like = jax.eval_shape(lambda: params)
    back = from_state_dict(state, like)
    assert jax.tree.structure(back) == jax.tree.structure(params)
    for a, b in zip(jax.tree.leaves(back), jax.tree.leaves(params)):
        assert a.dtype == b.dtype and a.tobytes() == np.ascontiguousarray(b).tobytes()
    assert sum(v.size for v in state.values()) == sum(v.size for v in jax.tree.leaves(params))


def test_names_and_layout():
    params = pure(tiny.model())
    state = to_state_dict(params)
    np.testing.assert_array_equal(
        state["encoder.1.attn.qkv.weight"], params["encoder"]["blocks"]["attn"]["qkv"]["kernel"][1].T
    )
    np.testing.assert_array_equal(state["tables.text"], params["embed"]["tables"]["text"])
    np.testing.assert_array_equal(state["encoder_norm.weight"], params["encoder"]["norm"]["scale"])
    assert all(v.flags.c_contiguous for v in state.values())


def test_errors_name_the_entry():
    params = pure(tiny.model())
    state = to_state_dict(params)
    name = "decoder.0.mlp.fc2.weight"
    with pytest.raises(ValueError, match=rf"{name}: missing in the state dict"):
        from_state_dict({k: v for k, v in state.items() if k != name}, params)
    with pytest.raises(ValueError, match=r"unexpected in the state dict: extra.weight"):
        from_state_dict(state | {"extra.weight": np.zeros(3)}, params)
    with pytest.raises(ValueError, match=rf"{name}: shape .* does not fit .* of the model"):
        from_state_dict(state | {name: np.zeros((3, 5), np.float32)}, params)


def test_one_misshapen_layer_is_named():
    params = pure(tiny.model())
    state = to_state_dict(params)
    name = "encoder.1.attn.proj.weight"  # the other layer has the right shape
    with pytest.raises(ValueError, match=rf"{name}.*shape"):
        from_state_dict(state | {name: np.zeros((3, 5), np.float32)}, params)


@pytest.mark.parametrize(
    "model",
    [
        dict(model="models.multimodal", towers=[dict(name="t", modalities=["a"])]),
        dict(model="models.network", parts={}),
        dict(
            model="tokenizers.autoencoder", encoder=dict(network="patches"), decoder=dict(network="patches"),
            quantizer=dict(quantizer="fsq", levels=[5]),
        ),
    ],
    ids=lambda model: model["model"],
)  # fmt: skip
def test_what_the_module_does_not_have_is_refused(tmp_path, model):
    restored = types.SimpleNamespace(run=types.SimpleNamespace(model=model))
    with pytest.raises(ValueError, match=f"model.model='{model['model']}': the PyTorch module is models.encdec alone"):
        export(restored, tmp_path / "out")
    assert not (tmp_path / "out").exists()
