"""4M in our terms gives the reference's numbers: golden intermediates, losses and gradients of apple/ml-4m."""

import dataclasses
import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from pretrain.interop import fourm, fourm_file
from pretrain.models.network import Network
from pretrain.models.predictor import Predictor
from pretrain.models.tokens import Shown, TokenSet

GOLDEN = Path(__file__).parents[1] / "golden" / "fourm"
NAMES = ("swiglu_nobias", "gelu_bias")


@pytest.fixture(scope="module", params=NAMES)
def case(request):
    """(checkpoint, the reference's numbers, inputs, dense, queries, labels)."""
    checkpoint = fourm.read(GOLDEN / f"{request.param}.safetensors")
    golden = dict(np.load(GOLDEN / f"{request.param}.npz"))
    return checkpoint, golden, *selected(checkpoint.modalities, golden)


def selected(modalities, golden):
    """The reference's selection, written with NumPy: all tokens of all modalities, what is masked sorted to the end."""

    def take(mask_name, count, targets):
        fields = []
        for i, m in enumerate(modalities):
            data = {k: golden[f"batch/{m.name}/{k}"] for k in ("tensor", "input_mask", "target_mask")}
            masked = data[mask_name]
            size, length = masked.shape
            at = np.broadcast_to(np.arange(length), (size, length))
            ids = at if m.kind == "pixels" else data["tensor"]
            labels = ids
            if m.kind == "sequence" and targets:
                labels, ids = ids[:, 1:], ids[:, :-1]
                masked = masked[:, 1:] | masked[:, :-1]
            if m.kind == "sequence":
                at = np.where(masked, 0, np.cumsum(~masked, 1) - 1)
            if (targets and not m.targets) or (not targets and not m.inputs):
                continue
            fields.append([ids, np.full(masked.shape, i), at[:, : masked.shape[1]], ~masked, labels])
        ids, modality, position, valid, labels = (np.concatenate(f, 1) for f in zip(*fields))
        order = np.argsort(~valid, axis=1, kind="stable")[:, :count]
        ids, modality, position, valid, labels = (
            np.take_along_axis(f, order, 1) for f in (ids, modality, position, valid, labels)
        )
        return TokenSet(*map(jnp.asarray, (ids, modality, position, valid))), jnp.asarray(labels)

    inputs, _ = take("input_mask", int(golden["num_input_tokens"]), False)
    queries, labels = take("target_mask", int(golden["num_target_tokens"]), True)
    rgb = golden["batch/rgb@224/tensor"]  # [B, C, H, W], already normalised
    b, c, h, w = rgb.shape
    patches = rgb.reshape(b, c, h // 16, 16, w // 16, 16).transpose(0, 2, 4, 3, 5, 1).reshape(b, -1, 16 * 16 * c)
    return inputs, {"rgb@224": jnp.asarray(patches)}, queries, labels


def built(checkpoint):
    config = dataclasses.replace(checkpoint.model, dtype="float32")
    return nnx.split(nnx.eval_shape(lambda: Network(config, checkpoint.modalities, (), nnx.Rngs(0))))[0]


def close(ours, theirs, where, tolerance=1e-5):
    np.testing.assert_allclose(np.asarray(ours)[where], theirs[where], atol=tolerance, rtol=tolerance)


def run(network, inputs, dense, queries, labels):
    model = Predictor(network)
    encoded = model.encode(Shown(inputs, dense))
    decoded = model.decode(encoded, queries)
    return encoded, decoded.x, model.nll(decoded, labels)


def per_modality(modalities, nll, queries):
    out = {}
    for i, m in enumerate(modalities):
        mine = (queries.modality == i) & queries.valid
        if m.targets:
            out[m.name] = jnp.where(mine, nll, 0).sum() / jnp.maximum(mine.sum(), 1)
    return out


@pytest.mark.slow
def test_intermediates_and_losses(case):
    checkpoint, golden, inputs, dense, queries, labels = case
    network = nnx.merge(built(checkpoint), jax.tree.map(jnp.asarray, checkpoint.params))
    filled, asked = np.asarray(inputs.valid), np.asarray(queries.valid)
    assert np.array_equal(filled, ~golden["enc_mask"][:, 0]) and np.array_equal(asked, ~golden["dec_mask"][:, 0])
    assert np.array_equal(np.asarray(labels)[asked], golden["target_ids"][asked])
    encoded, y, nll = run(network, inputs, dense, queries, labels)
    close(network.run("embed", Shown(inputs, dense)).x, golden["enc_in"], filled)
    close(network.run("embed", Shown(queries, {}), queries=True).x, golden["dec_in"], asked)
    close(encoded.x, golden["enc_out"], filled)
    close(network.decoder.context(encoded.x) + encoded.placed, golden["context"], filled)
    close(y, golden["dec_out"], asked)
    losses = per_modality(checkpoint.modalities, nll, queries)
    for name, value in losses.items():
        np.testing.assert_allclose(value, golden[f"loss/{name}"], atol=1e-5)
    np.testing.assert_allclose(sum(losses.values()) / len(losses), golden["loss_mod"], atol=1e-5)


def test_gradients(case):
    checkpoint, golden, inputs, dense, queries, labels = case

    def loss(params):
        _, _, nll = run(nnx.merge(built(checkpoint), params), inputs, dense, queries, labels)
        return jnp.stack(list(per_modality(checkpoint.modalities, nll, queries).values())).mean()

    grads = jax.jit(jax.grad(loss))(checkpoint.params)
    flat = {fourm.path_str(k): np.asarray(v) for k, v in jax.tree_util.tree_leaves_with_path(grads)}
    names = fourm.layout(checkpoint.model, checkpoint.modalities)
    compared = set()
    for key, theirs in golden.items():
        if not key.startswith("grad/"):
            continue
        ours, index = names[key.removeprefix("grad/")]
        value = flat[ours] if index is None else flat[ours][index]
        value = (value.T if ours.endswith("kernel") else value).reshape(theirs.shape)
        assert np.abs(value - theirs).max() <= 1e-4 * np.abs(theirs).max(), key
        compared.add((ours, index))
    rest = set(names.values()) - compared
    for ours, index in rest:  # what has no gradient there has none here
        assert not (flat[ours] if index is None else flat[ours][index]).any(), ours


def test_round_trip_is_bit_identical(case, tmp_path):
    checkpoint, *_ = case
    name = "gelu_bias" if checkpoint.model.bias else "swiglu_nobias"
    config, state = fourm.read_file(GOLDEN / f"{name}.safetensors")
    c = checkpoint
    out = fourm.write(tmp_path / "out", c.model, c.modalities, c.params, c.positions)
    for form in (out, out / fourm_file.FILE):
        config_again, state_again = fourm.read_file(form)
        assert config_again == config
        assert state_again.keys() == state.keys()
        for k in state:
            assert state[k].dtype == state_again[k].dtype and np.array_equal(state[k], state_again[k]), k


def test_4m_21_b_is_listed_exactly():
    from data_pipeline.fourm import MOD21, MODALITIES
    from pretrain.models.encdec import Config

    lines = (GOLDEN / "4m_21_B_state_dict.txt").read_text().splitlines()
    expected = dict(line.split("\t")[:2] for line in lines if not line.startswith("#"))
    sizes = Config(dim=768, heads=12, encoder_depth=12, decoder_depth=12, tables="untied")
    ours = {name: str(shape) for name, shape in fourm.shapes(sizes, [MODALITIES[n] for n in MOD21]).items()}
    assert len(expected) == 433 and ours == expected


def rewrite(tmp_path, change_state=lambda s: None, change_config=lambda c: None, folder=False):
    """A copy of a golden checkpoint with something changed."""
    from safetensors.numpy import save_file

    config, state = fourm.read_file(GOLDEN / "swiglu_nobias.safetensors")
    change_state(state)
    change_config(config)
    if folder:
        (tmp_path / "config.json").write_text(json.dumps(config))
        save_file(state, tmp_path / fourm_file.FILE)
        return tmp_path
    save_file(state, tmp_path / "x.safetensors", metadata={k: str(v) for k, v in config.items()})
    return tmp_path / "x.safetensors"


def test_the_hub_form_without_aliases_is_the_same(tmp_path):
    def drop(state):
        for name in [n for n in state if n.startswith("encoder_embeddings") and n.endswith("mod_emb")]:
            if name.replace("encoder_", "decoder_") in state:
                del state[name]

    whole = fourm.read(GOLDEN / "swiglu_nobias.safetensors")
    hub = fourm.read(rewrite(tmp_path, drop, folder=True))
    jax.tree.map(np.testing.assert_array_equal, hub.params, whole.params)
    assert (hub.model, hub.modalities) == (whole.model, whole.modalities)
    assert sum("an alias of decoder_embeddings" in line for line in hub.report) == 5


def test_tied_heads_are_seen_and_written_back(tmp_path):
    def tie(state):
        for name in [n for n in state if n.endswith("to_logits.weight")]:
            state[name] = state[name.replace("to_logits", "token_emb")]

    tied = fourm.read(rewrite(tmp_path, tie))
    assert tied.model.tables == "split" and "heads" not in tied.params["embed"]
    out = fourm.write(tmp_path / "out", tied.model, tied.modalities, tied.params)
    state = fourm.read_file(out)[1]
    a, b = (state[f"decoder_embeddings.caption.{n}.weight"] for n in ("token_emb", "to_logits"))
    assert np.array_equal(a, b)


@pytest.mark.parametrize(
    "state, config, error",
    [
        (lambda s: s.pop("encoder.1.mlp.fc2.weight"), None, "encoder.1.mlp.fc2.weight missing"),
        (lambda s: s.update(extra=np.zeros(2, np.float32)), None, "extra unexpected: another architecture"),
        (lambda s: s.update({"encoder.0.norm1.bias": np.ones(32, np.float32)}), None, "norm_bias=False"),
        (lambda s: s.update({"encoder.0.attn.qkv.weight": np.zeros((64, 32), np.float32)}), None, r"shape \(64, 32\)"),
        (None, lambda c: c.update(act_layer="ReLU"), "act_layer='ReLU'"),
        (None, lambda c: c.pop("dim"), "lacks 'dim'"),
        (None, lambda c: c.update(encoder_depth=3), "encoder.2.*missing"),
        (None, lambda c: c.update(mlp_bias=True), "biases everywhere or nowhere"),
        (None, lambda c: c["domains_out"].append("tok_clip@224"), "no tensor of modality 'tok_clip@224'"),
    ],
)
def test_a_wrong_checkpoint_is_named(tmp_path, state, config, error):
    path = rewrite(tmp_path, state or (lambda s: None), config or (lambda c: None))
    with pytest.raises(ValueError, match=error):
        fourm.read(path)


def test_a_truncated_file_is_named(tmp_path):
    data = (GOLDEN / "swiglu_nobias.safetensors").read_bytes()
    (tmp_path / "x.safetensors").write_bytes(data[: len(data) // 2])
    with pytest.raises(ValueError, match="not a whole safetensors file"):
        fourm.read(tmp_path / "x.safetensors")


def test_writing_overwrites_nothing(tmp_path):
    c = fourm.read(GOLDEN / "gelu_bias.safetensors")
    (tmp_path / "mine").write_text("")
    with pytest.raises(FileExistsError, match="not empty"):
        fourm.write(tmp_path, c.model, c.modalities, c.params)
    with pytest.raises(ValueError, match="no place for pool/head/pool_queries"):
        fourm.write(
            tmp_path / "new", c.model, c.modalities, c.params | {"pool": {"head": {"pool_queries": np.zeros(3)}}}
        )
