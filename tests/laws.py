"""The laws that every run must keep, each a function that a test calls on a config."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import jax
import numpy as np

from pretrain import build, optim, sharding
from pretrain.checkpoint import load_params
from pretrain.restore import init_function
from pretrain.step import accumulate, forward, init_state, make_train_step

ROOT = Path(__file__).parents[1]


def command(config: str, workdir, overrides: dict) -> list[str]:
    flags = [f"--config.{k}={v}" for k, v in overrides.items()]
    return [sys.executable, "-m", "pretrain", f"--config={config}", f"--workdir={workdir}", *flags]


def launch(config, workdir, overrides, *, devices=1, **kwargs):
    flags = os.environ["XLA_FLAGS"] + f" --xla_force_host_platform_device_count={devices}"  # the last one counts
    env = os.environ | {"XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu"}
    return subprocess.Popen(
        command(config, workdir, overrides), cwd=ROOT, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        text=True, **kwargs,
    )  # fmt: skip


def run_cli(config, workdir, overrides, *, devices=1) -> str:
    """Trains through the command line; returns what it printed."""
    process = launch(config, workdir, overrides, devices=devices)
    out, _ = process.communicate(timeout=600)
    assert process.returncode == 0, out
    return out


def losses(workdir) -> dict[int, dict]:
    """{step: scalars} of a run's training lines; of a run that still writes, its complete ones."""
    lines = (Path(workdir) / "metrics.jsonl").read_text().splitlines(keepends=True)
    rows = [json.loads(line) for line in lines if line.endswith("\n")]
    return {r["step"]: r for r in rows if "loss" in r}


def resumed_equals_uninterrupted(config, tmp_path, overrides, kill_after: int):
    """Kills a run with SIGKILL once it has logged step `kill_after`, continues it, and compares every bit."""
    run_cli(config, tmp_path / "whole", overrides)
    killed = tmp_path / "killed"
    process = launch(config, killed, overrides)
    log, deadline = killed / "metrics.jsonl", time.time() + 300
    while not (log.exists() and any(s >= kill_after for s in losses(killed))):
        assert process.poll() is None, f"the run ended before it could be killed:\n{process.stdout.read()}"
        assert time.time() < deadline, "the run never reached the step at which to kill it"
        time.sleep(0.002)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert process.returncode == -signal.SIGKILL
    out = run_cli(config, killed, overrides)
    for ema in (False, True):
        a, b = (load_params(tmp_path / name, ema=ema) for name in ("whole", "killed"))
        jax.tree.map(np.testing.assert_array_equal, a, b)
    return out


def meshes_agree(config, tmp_path, overrides, mesh: str, tolerance=1e-5):
    """Every logged loss term of a run on one device equals that on eight with this mesh; returns what that printed."""
    run_cli(config, tmp_path / "one", overrides)
    out = run_cli(config, tmp_path / "eight", overrides | {"mesh": mesh}, devices=8)
    one, eight = losses(tmp_path / "one"), losses(tmp_path / "eight")
    assert one.keys() == eight.keys()
    for step in one:
        for name, value in one[step].items():
            if name == "loss" or ("/" in name and not name.endswith("/s") and not name.startswith("time/")):
                np.testing.assert_allclose(eight[step][name], value, rtol=tolerance, err_msg=f"{name} at step {step}")
    return out


class Built:
    """A run's parts on one device, without a workdir: for laws of the step itself."""

    def __init__(self, config):
        self.run = build.parse(config)
        self.objectives = build.objectives(self.run)
        self.graphs, init = init_function(build.models(self.run, self.objectives), self.objectives, self.run.seed)
        self.params, self.roles = jax.jit(init)(), init.roles
        self.optimizer = optim.make_optimizer(self.run.optim, self.params, self.run.steps, self.roles)

    @property
    def graph(self):
        return self.graphs["online"]

    def batch(self, apart: int = 1):
        """apart: how far examples lie from each other in the source."""
        source = build.source(self.run.data, "train")
        encode = build.encoder(self.run, train=True)
        rows = [encode(source[apart * i], np.random.default_rng(i)) for i in range(self.run.batch_size)]
        return jax.tree.map(lambda *x: np.stack(x), *rows)

    def step(self, batch, steps=1):
        """(state, metrics) after some steps on one batch."""
        step = make_train_step(
            self.graphs, self.objectives, self.optimizer, seed=self.run.seed, accum=self.run.accum,
            references=(references := build.references(self.run)), steps=self.run.steps,
        )  # fmt: skip
        step, state = jax.jit(step), init_state(self.params, self.optimizer, references)
        for _ in range(steps):
            state, metrics = step(state, batch)
        return state, metrics


def gradients(objectives, graphs, params, batch, keys, *, accum=1, mesh="", roles=None):
    """((loss, (terms, statistics)), gradients) of a step's loss on one device, in `accum` microbatches, or on a mesh of
    eight, on which parameters lie as their roles say, or whole without them."""

    def step(params, batch):
        if accum > 1:
            loss, aux, grads = accumulate(graphs, params, objectives, batch, keys, accum)
            return (loss, aux), grads
        total = lambda p: forward(graphs, p, objectives, batch, keys, train=True)
        return jax.value_and_grad(total, has_aux=True)(params)

    if not mesh:
        return jax.device_get(jax.jit(step)(params, batch))
    mesh = sharding.make_mesh(sharding.parse_mesh(mesh))
    with jax.set_mesh(mesh):
        batch = jax.device_put(batch, sharding.batch_sharding(mesh))
        if roles:
            params = jax.device_put(params, sharding.state_sharding(params, roles, mesh))
        return jax.device_get(jax.jit(step)(params, batch))


def same_gradients(found, want, tolerance):
    """Two results of `gradients` agree in the loss, to 1e-5, and in every gradient (`close_trees`)."""
    ((loss, _), grads), ((whole_loss, _), whole) = found, want
    np.testing.assert_allclose(loss, whole_loss, rtol=1e-5)
    close_trees(whole, grads, tolerance)


def close_trees(a, b, tolerance):
    """Two trees agree leaf by leaf, relative to the largest entry of each leaf."""

    def check(path, x, y):
        scale = max(np.abs(x).max(initial=0), 1e-8)
        assert np.abs(np.asarray(x) - np.asarray(y)).max(initial=0) <= tolerance * scale, jax.tree_util.keystr(path)

    jax.tree_util.tree_map_with_path(check, a, b)
