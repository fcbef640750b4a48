"""Fused attention against the plain one: outputs and gradients, on one device and on eight; and who refuses what.

Splash runs in Pallas' interpreter. cuDNN cannot run here: what is around it runs with XLA's attention in its place, and
it is lowered for CUDA.
"""

import contextlib
import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny
from flax import nnx
from jax._src.cudnn import fused_attention_stablehlo
from jax.sharding import AbstractDevice, AbstractMesh

from pretrain.models import encdec, multimodal, tower
from pretrain.models.network import Network
from pretrain.models.passes import Leaf, compute
from pretrain.models.predictor import Predictor
from pretrain.models.tokens import Whole
from pretrain.ops import fused_attention
from pretrain.ops.attention import attend
from pretrain.ops.fused_attention import attend_fused, choose
from pretrain.sharding import AXES, MeshConfig, make_mesh

GPU, TPU, CPU = "NVIDIA H100 80GB HBM3", "TPU v5 lite", "cpu"


@pytest.fixture
def here(monkeypatch):
    """Lets both kernels run on this machine."""
    make, attention = fused_attention.tpu.make_splash_mha_single_device, jax.nn.dot_product_attention
    interpreted = functools.partial(make, interpret=True)
    monkeypatch.setattr(fused_attention.tpu, "make_splash_mha_single_device", interpreted)
    by_xla = lambda *args, mask, implementation: attention(*args, mask=mask, implementation="xla")
    monkeypatch.setattr(jax.nn, "dot_product_attention", by_xla)


def arrays(size, n, m, heads=2, width=8, dtype=jnp.float32):
    rng = np.random.default_rng(n)
    return [jnp.asarray(rng.normal(size=(size, length, heads, width)), dtype) for length in (n, m, m, n)]


def masks(*shape):
    """Random, but one example and, where queries differ, some queries may look nowhere."""
    mask = np.random.default_rng(shape[-1]).random(shape) < 0.6
    mask[0] = False
    mask[:, :, 1::5] = False
    return jnp.asarray(mask)


def both(attention, q, k, v, g):
    """The output, and the gradients of ⟨output, g⟩."""

    @jax.jit
    def run(q, k, v):
        out, pull = jax.vjp(attention, q, k, v)
        return out, *pull(g)

    return jax.device_get(run(q, k, v))


@pytest.mark.parametrize(
    "kernel, n, m, seen",
    [
        ("splash", 128, 256, (3, 1, 1, 256)),
        ("splash", 77, 600, (3, 1, 1, 600)),  # padded, and several blocks
        ("splash", 5, 130, None),
        ("cudnn", 16, 24, (3, 1, 1, 24)),
        ("cudnn", 9, 13, (3, 1, 9, 13)),  # padded
        ("cudnn", 9, 13, (3, 2, 9, 13)),
        ("cudnn", 9, 13, None),
    ],
)
def test_equals_plain_attention(here, kernel, n, m, seen):
    mask = masks(*seen) if seen else None
    inputs = arrays(3, n, m)
    got = both(lambda *a: attend_fused(kernel, *a, mask), *inputs)
    want = both(lambda *a: attend(*a, mask=mask), *inputs)
    for a, b in zip(got, want, strict=True):
        np.testing.assert_allclose(a, b, atol=1e-5)


@pytest.mark.parametrize("heads", [2, 3], ids=["split", "whole"])
@pytest.mark.parametrize("kernel, seen", [("splash", (4, 1, 1, 130)), ("cudnn", (4, 1, 40, 130))])
def test_equals_plain_attention_on_a_mesh(here, kernel, seen, heads):
    mask, inputs = masks(*seen), arrays(4, 40, 130, heads)
    want = both(lambda *a: attend(*a, mask=mask), *inputs)
    with jax.set_mesh(make_mesh(MeshConfig(data=2, fsdp=2, tensor=2))):
        got = both(lambda *a: attend_fused(kernel, *a, mask), *inputs)
    for a, b in zip(got, want, strict=True):
        np.testing.assert_allclose(a, b, atol=1e-5)


def test_bf16_operands_give_fp32(here):
    inputs = arrays(2, 128, 128, dtype=jnp.bfloat16)
    for kernel in ("splash", "cudnn"):
        got = attend_fused(kernel, *inputs[:3], None)
        assert got.dtype == jnp.float32
        np.testing.assert_allclose(got, attend(*inputs[:3]), atol=0.02)


@pytest.mark.parametrize("mesh", [None, MeshConfig(data=2, fsdp=2, tensor=2)], ids=["alone", "mesh"])
def test_cudnn_lowers_for_cuda_with_its_gradient(monkeypatch, mesh):
    monkeypatch.setattr(fused_attention_stablehlo, "check_cudnn_version", lambda: 91000)
    q, k, v, _ = arrays(8, 77, 50, 4, 64, jnp.bfloat16)
    grad = jax.jit(jax.grad(lambda *a: attend_fused("cudnn", *a, masks(8, 1, 77, 50)).sum(), (0, 1, 2)))
    with jax.set_mesh(make_mesh(mesh)) if mesh else contextlib.nullcontext():
        text = grad.trace(q, k, v).lower(lowering_platforms=("cuda",)).as_text()
    calls = re.findall(r'@"?(__cudnn\$\w+).*: \((tensor<[^>]*>)', text)
    local = "tensor<2x80x2x64xbf16>" if mesh else "tensor<8x80x4x64xbf16>"
    assert calls == [(f"__cudnn$fmhaScaleBiasSoftmax{pass_}", local) for pass_ in ("", "Backward")]


def chosen(setting, device, *, n=256, m=256, seen=(1, 1, 1), dtype=jnp.bfloat16, width=64, bias=None):
    """`choose` for a program that is traced here for another device."""
    q, k = (jax.ShapeDtypeStruct((2, length, 4, width), dtype) for length in (n, m))
    mask = seen and jax.ShapeDtypeStruct((*seen, m), bool)
    about = AbstractDevice(device_kind=device, num_cores=1, platform="any")
    with jax.sharding.use_abstract_mesh(AbstractMesh((1,) * len(AXES), AXES, abstract_device=about)):
        return choose(setting, q, k, mask, bias)


@pytest.mark.parametrize(
    "device, call, kernel",
    [
        (CPU, {}, ""),
        ("AMD Instinct MI300X", {}, ""),
        (TPU, {}, "splash"),
        (TPU, dict(seen=None, dtype=jnp.float32), "splash"),
        (TPU, dict(seen=(2, 1, 256)), ""),
        (TPU, dict(seen=(1, 4, 1)), ""),
        (TPU, dict(bias=1), ""),
        (TPU, dict(m=64), ""),
        (GPU, {}, "cudnn"),
        (GPU, dict(seen=(2, 1, 256)), "cudnn"),
        (GPU, dict(n=64), ""),
        (GPU, dict(bias=1), ""),
        (GPU, dict(dtype=jnp.float32), ""),
        (GPU, dict(width=60), ""),
        (GPU, dict(width=256), ""),
    ],
)
def test_auto_takes_the_kernel_of_the_device_where_it_can(device, call, kernel):
    assert chosen("auto", device, **call) == kernel
    assert chosen("xla", device, **call) == ""


@pytest.mark.parametrize(
    "setting, device, call, problem",
    [
        ("cudnn", CPU, {}, "runs on NVIDIA devices, not on 'cpu'"),
        ("splash", GPU, {}, "runs on TPU devices, not on 'NVIDIA"),
        ("splash", TPU, dict(seen=(2, 1, 256)), "differ in what they may see"),
        ("splash", TPU, dict(bias=1), "no bias"),
        ("cudnn", GPU, dict(bias=1), "no bias"),
        ("cudnn", GPU, dict(dtype=jnp.float32), "takes bfloat16, not float32"),
        ("cudnn", GPU, dict(width=60), "not 60"),
    ],
)
def test_a_kernel_by_name_refuses_what_it_cannot_do(setting, device, call, problem):
    with pytest.raises(ValueError, match=rf"model\.attention='{setting}': .*{problem}.*; set 'auto'"):
        chosen(setting, device, **call)


def test_a_kernel_by_name_runs_even_short_sequences():
    assert (chosen("splash", TPU, n=5), chosen("cudnn", GPU, m=5)) == ("splash", "cudnn")


def test_models_that_a_kernel_can_never_run_are_not_built():
    text = tower.Config("text", ("text",), dim=16, heads=2, causal=True, pool="last")
    for make, problem in (
        (lambda: encdec.Config(attention="flash"), "must be one of xla, auto, cudnn, splash"),
        (lambda: encdec.Config(attention="splash"), "differ in what they may see"),
        (lambda: encdec.Config(attention="cudnn", slopes=(1.0,) * 12), "no bias"),
        (lambda: encdec.Config(attention="cudnn", dtype="float32"), "takes bfloat16"),
        (lambda: encdec.Config(attention="cudnn", dim=120), "not 10"),
        (lambda: multimodal.Config((text,), attention="splash"), "differ in what they may see"),
    ):
        with pytest.raises(ValueError, match=f"model.attention=.*{problem}"):
            make()
    multimodal.Config((text,), attention="cudnn")
    encdec.Config(attention="cudnn")


def test_auto_in_the_encoder_and_in_cross_attention_changes_nothing(here, monkeypatch):
    calls = []
    counted = lambda *a: calls.append(a) or fused_attention._splash(*a)
    batch = tiny.batch(4, missing=0.4)
    image, asked = (Whole(names, tiny.MODALITIES)(batch) for names in (("image",), ("depth", "caption")))

    def loss_and_grad(attention):
        graph, params = nnx.split(tiny.model(attention=attention))

        @jax.jit
        @jax.value_and_grad
        def run(params):
            model = Predictor(nnx.merge(graph, params))
            return model.nll(model.decode(model.encode(image), asked.tokens), asked.tokens.ids).sum()

        return run(params)

    plain = loss_and_grad("xla")
    monkeypatch.setattr(fused_attention, "DEVICE", {"splash": CPU})
    monkeypatch.setattr(fused_attention, "SHORT", 1)
    monkeypatch.setitem(fused_attention.KERNELS, "splash", counted)
    fused = loss_and_grad("auto")
    assert len(calls) == 2  # the scanned encoder block's, and the decoder block's cross-attention
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4), fused, plain)


def test_towers_pass_the_setting_on(here, monkeypatch):
    photo = tiny.replace(tiny.MODALITIES[0], name="photo")
    made = [
        Network(
            multimodal.Config(
                (tower.Config("t", ("photo",), dim=16, heads=2, depth=1, pool="map"),), 8, dtype="float32",
                attention=attention,
            ),
            (photo,), ("photo",), nnx.Rngs(0),
        )
        for attention in ("xla", "splash")
    ]  # fmt: skip
    data = tiny.batch(3, modalities=(photo,), missing=0.0)
    node = made[0].states.embedding("photo", Leaf(Whole(("photo",), (photo,))))
    with pytest.raises(ValueError, match=r"model\.attention='splash': it runs on TPU devices"):
        compute(made[1], {"photo": node}, data)
    monkeypatch.setattr(fused_attention, "DEVICE", {"splash": CPU})
    z = [compute(m, {"photo": node}, data)["photo"] for m in made]
    np.testing.assert_allclose(z[1], z[0], atol=1e-5)
