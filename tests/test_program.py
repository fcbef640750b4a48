"""The step as a program: how much work it is, and a compiled one kept in a file."""

import dataclasses
import hashlib
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny

from configs import clip_b16
from pretrain import build, executable
from pretrain.chips import chip_of
from pretrain.flops import matmul_flops, model_flops
from pretrain.program import TPU_OPTIONS, Program, compiler_options
from pretrain.train import train
from tools.plan.measure import example


def counted(f, *args, **how):
    return matmul_flops(jax.make_jaxpr(f)(*args), **how)


def test_operations_of_products_loops_and_branches():
    a, b = jnp.ones((3, 4, 5)), jnp.ones((3, 5, 7))
    one = 2 * 3 * 4 * 5 * 7
    assert counted(jnp.matmul, a, b) == one
    assert counted(jax.jit(lambda a, b: jax.lax.map(lambda _: a @ b, jnp.arange(6))), a, b) == 6 * one
    assert counted(lambda a, b: jax.lax.cond(a.sum() > 0, lambda: a @ b, lambda: (a @ b) @ jnp.ones((7, 7))), a, b) == (
        one + 2 * 3 * 4 * 7 * 7
    )
    loop = lambda n, a, b: jax.lax.fori_loop(0, n, lambda i, y: y + a @ b, jnp.zeros((3, 4, 7)))
    assert counted(loop, 4, a, b) == 0 and counted(loop, 4, a, b, loops=5) == 5 * one
    image, kernel = jnp.ones((2, 8, 8, 3)), jnp.ones((2, 2, 3, 16))
    convolve = lambda x, k: jax.lax.conv_general_dilated(
        x, k, (2, 2), "VALID", dimension_numbers=("NHWC", "HWIO", "NHWC")
    )
    assert counted(convolve, image, kernel) == 2 * (2 * 4 * 4 * 16) * (2 * 2 * 3)
    assert counted(jax.grad(lambda a, b: (a @ b).sum(), (0, 1)), a, b) == 3 * one


@pytest.mark.parametrize("remat", ["none", "block"])
def test_operations_agree_with_xla(remat):
    """XLA's own analysis of the compiled step, its loops written out; 5 % is what it counts beside products."""
    c = clip_b16.get_config("tiny")
    c.model.update(unroll=True, remat=remat)
    for t in c.model.towers:
        t.update(dim=256, heads=4)
    run = build.parse(c)
    made = Program(run, jax.devices()[:1])
    xla = made.lower(example(run)).compile().cost_analysis()["flops"]
    ours = model_flops(run, example(run))
    if remat == "none":
        assert abs(xla / ours - 1) < 0.05
    else:
        assert 1.2 < xla / ours < 1.4, "what is computed twice is no work of the model"
    assert ours == model_flops(dataclasses.replace(run, accum=2), example(run))
    c.model.update(dtype="bfloat16", attention="cudnn")
    assert ours == model_flops(build.parse(c), example(run)), "the products of a kernel are work as well"


def test_chips():
    assert chip_of("TPU v5").name == "v5p" and chip_of("TPU v5 lite").name == "v5e" and chip_of("cpu") is None
    assert chip_of("NVIDIA H100 80GB HBM3").name == "h100"


@pytest.mark.slow
def test_a_compiled_step_is_kept_and_used(token_store, tmp_path, capsys):
    """The trainer takes it in place of compiling, to the same bits, and refuses that of another run."""
    c = tiny.emoji_run(token_store)
    c.steps, c.log.tensorboard = 3, False
    made = Program(build.parse(c))
    lowered = made.lower(example(made.run))
    step = executable.save(tmp_path / "step", lowered, executable.compile_afresh(lowered))
    plain, kept = (train(c, tmp_path / name, path) for name, path in (("a", ""), ("b", step)))
    jax.tree.map(np.testing.assert_array_equal, plain, kept)
    c.optim.lr = 0.5
    with pytest.raises(
        ValueError, match=r"--executable=.*step: made by JAX .* for another config, mesh, number of dev"
    ):
        train(c, tmp_path / "c", step)
    assert not (tmp_path / "c").exists(), "refused before the workdir is claimed"


def test_no_step_is_opened_but_the_one_that_is_meant(tmp_path):
    """It is unpickled: with another sha256 not one byte of it is."""
    file = tmp_path / "step"
    file.write_bytes(b"broken")
    given = f"{file}@{hashlib.sha256(b'broken').hexdigest()}"
    for text, message in (
        (str(file), "what is in such a file is run: give FILE@SHA256"),
        ("nowhere@00", "--executable=nowhere: no such file"),
        (f"{file}@00", r"--executable=.*step: its sha256 is not 00…: it is damaged or another"),
        (given, r"--executable=.*step: no compiled step; write one with"),
    ):
        with pytest.raises(ValueError, match=message):
            executable.load(text, None, [])


def test_only_tpus_are_given_options_of_their_compiler():
    device = lambda platform: types.SimpleNamespace(platform=platform)
    assert compiler_options(device("tpu")) == TPU_OPTIONS and compiler_options(device("gpu")) is None
    assert compiler_options(jax.devices()[0]) is None
