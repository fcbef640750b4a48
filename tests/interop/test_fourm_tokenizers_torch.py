"""4M's tokenizers in our terms give the numbers of PyTorch modules with their names: codes, outputs and gradients."""

import dataclasses

import fourm_tokenizers as cases
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from pretrain import build
from pretrain.interop import fourm_tokenizer_config, fourm_tokenizers

torch = pytest.importorskip("torch")
import fourm_torch as reference  # noqa: E402 (it needs torch)


@dataclasses.dataclass
class Case:
    """The same tokenizer there and here."""

    name: str
    theirs: torch.nn.Module
    held: fourm_tokenizers.Checkpoint
    run: build.Run

    @property
    def ours(self):
        graph, _ = nnx.split(nnx.eval_shape(lambda: build.models(self.run, {})["online"](nnx.Rngs(0))))
        return nnx.merge(graph, {"autoencoder": jax.tree.map(jnp.asarray, self.held.params)}).autoencoder

    def inputs(self, seed=0):
        """(what ours reads, what theirs reads) of three examples."""
        rng, (*size, channels) = np.random.default_rng(seed), self.held.modality.shape
        if self.held.modality.kind == "vectors":
            x = rng.normal(size=(3, *size, channels)).astype(np.float32)
            side = round(size[0] ** 0.5)
            return x, torch.from_numpy(x.reshape(3, side, side, channels)).movedim(-1, 1)
        if self.name == "labels":
            x = rng.integers(0, 7, (3, *size, 1), dtype=np.uint8)
            return x, torch.from_numpy(x[..., 0]).long()
        x = rng.integers(0, 256, (3, *size, channels), dtype=np.uint8)
        return x, torch.from_numpy(x.astype(np.float32) / 127.5 - 1).movedim(-1, 1)


def torch_model(name):
    c = cases.CONFIGS[name]
    torch.manual_seed(0)
    if name == "vector":
        encoder, decoder = (reference.BottleneckMlp(*sizes, depth=2) for sizes in ((10, 8, 8), (8, 8, 10)))
        return reference.randomize(reference.Tokenizer(encoder, reference.Memcodes(4, 9, 8), decoder, (8, 8, 8)))
    patch = c["patch_size"] if c.get("patch_proj", True) else 1
    args = dict(ratio=4, grid=4, patch=patch, post_mlp=c.get("post_mlp", False), **cases.SMALL)
    encoder = reference.Vit(channels=c["n_channels"], decoder=False, **args)
    if name == "divae":
        decoder = reference.Unet(3, 6, **{"width" if k == "channels" else k: v for k, v in cases.UNET.items()})
    else:
        convs = 2 * c.get("out_conv", False)
        decoder = reference.Vit(channels=c.get("n_labels") or c["n_channels"], decoder=True, convs=convs, **args)
    widths, classes = (16, 6, None if name == "divae" else 16), (7, 5) if name == "labels" else None
    return reference.randomize(reference.Tokenizer(encoder, reference.Codebook(11, 6), decoder, widths, classes))


@pytest.fixture(params=cases.CONFIGS)
def case(request, tmp_path, monkeypatch):
    return load(request.param, tmp_path, monkeypatch)


def load(name, tmp_path, monkeypatch, size=0):
    cases.add_presets(monkeypatch)
    theirs = torch_model(name)
    file = cases.write_reference(tmp_path / "x.safetensors", cases.CONFIGS[name], theirs.state())
    held = fourm_tokenizers.read(file, size)
    return Case(name, theirs, held, fourm_tokenizer_config.make_run(held.model, held.modality))


def rows(x):
    """`[B, D, H, W]` of theirs as `[B, N, D]` of ours."""
    return x.detach().flatten(2).transpose(1, 2).numpy()


def test_codes_and_ids(case):
    mine, given = case.inputs()
    z, codes, ids = case.theirs.encode(given)
    model = case.ours
    np.testing.assert_allclose(model.latents(mine), rows(z), atol=1e-5)
    np.testing.assert_array_equal(model.tokenize(mine), ids.numpy())
    assert len(np.unique(ids)) > 2
    np.testing.assert_allclose(model.encode(mine), rows(codes), atol=1e-5)
    np.testing.assert_allclose(model.quantizer.to_codes(model.tokenize(mine)), rows(codes), atol=1e-5)


def test_decoder(case):
    mine, given = case.inputs()
    codes = case.theirs.encode(given)[1]
    if case.name == "divae":
        x, t = torch.randn(3, 3, 16, 16), torch.tensor([0, 41, 99])
        there = case.theirs.decoder(x, t, codes).movedim(1, -1)
        denoise = jax.jit(lambda model, x, t, raw: model.predict(x, t, model.encode(raw)))
        here = denoise(case.ours, x.movedim(1, -1).numpy(), t.numpy(), mine)
    else:
        there, here = case.theirs(given).movedim(1, -1), case.ours.decode(case.ours.encode(mine))
    there = there.detach().numpy().reshape(here.shape)
    np.testing.assert_allclose(here, there, atol=1e-5 * np.abs(there).max())
    assert there.std() > 0.1


def test_another_size_of_images(tmp_path, monkeypatch):
    """Theirs resizes its position tables whenever it reads another size."""
    case = load("labels", tmp_path, monkeypatch, size=24)
    mine, given = case.inputs()
    assert mine.shape == (3, 24, 24, 1)
    np.testing.assert_allclose(case.ours.latents(mine), rows(case.theirs.encode(given)[0]), atol=1e-5)
    there = case.theirs(given).movedim(1, -1).detach().numpy()
    np.testing.assert_allclose(case.ours.decode(case.ours.encode(mine)), there, atol=1e-5 * np.abs(there).max())


@pytest.mark.slow
@pytest.mark.parametrize("name", ["labels", "masks", "vector", "divae"])
def test_gradients(name, tmp_path, monkeypatch):
    """Of a sum of squares through the decoder, the straight-through estimator and the encoder."""
    case = load(name, tmp_path, monkeypatch)
    mine, given = case.inputs()
    noise, t = torch.randn(3, 3, 16, 16), torch.tensor([0, 41, 99])
    if name == "vector":  # no gradient passes their codes at evaluation; here the decoder alone
        codes = case.theirs.encode(given)[1].detach()
        case.theirs.decoder(case.theirs.post_quant_proj(codes)).square().mean().backward()
    elif name == "divae":
        case.theirs.decoder(noise, t, case.theirs.encode(given)[1]).square().mean().backward()
    else:
        case.theirs(given).square().mean().backward()
    graph, params = nnx.split(case.ours)

    def loss(params):
        model = nnx.merge(graph, params)
        codes = model.encode(mine)
        if name == "divae":
            out = model.predict(jnp.asarray(noise.movedim(1, -1).numpy()), jnp.asarray(t.numpy()), codes)
        else:
            out = model.decode(jax.lax.stop_gradient(codes) if name == "vector" else codes)
        return jnp.square(out).mean()

    grads = nnx.to_pure_dict(jax.jit(jax.grad(loss))(params))
    flat = {fourm_tokenizers.path_str(k): v for k, v in jax.tree_util.tree_leaves_with_path(grads)}
    learned = {n: p.grad.numpy() for n, p in case.theirs.named_parameters() if p.grad is not None}
    checked = 0
    for n, tensor in fourm_tokenizers.Names(case.run).tensors.items():
        if n not in learned:
            continue
        mine = tensor.out(flat[tensor.path] if tensor.index is None else flat[tensor.path][tensor.index])
        np.testing.assert_allclose(mine, learned[n], atol=1e-5 * max(np.abs(learned[n]).max(), 1e-2), err_msg=n)
        checked += 1
    assert checked == len(learned) > 20 / (1 + (name == "vector"))
