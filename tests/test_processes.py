"""Several processes on this machine, joined by gloo as hosts of a pod: they train, stop together, resume as one."""

import os
import shutil
import signal
import socket
import subprocess
import time

import laws
import numpy as np
import pytest

SMALL = """
import tiny


def get_config():
    c = tiny.emoji_run("")
    c.steps = 8
    return c
"""
PATH = {"PYTHONPATH": f"{laws.ROOT}:{laws.ROOT / 'tests'}"}  # where the config file finds what it imports
TOGETHER = 8  # devices of all processes


@pytest.fixture(scope="module")
def config(tmp_path_factory):
    path = tmp_path_factory.mktemp("config") / "small.py"
    path.write_text(SMALL)
    return path


def free_port() -> int:
    with socket.socket() as s:
        s.bind(("localhost", 0))
        return s.getsockname()[1]


def start(config, workdir, store, count, mesh="data=2,fsdp=2,tensor=2", **changed):
    """The processes of one run; changed: {process: overrides that only it has}."""
    port, processes = free_port(), []
    for i in range(count):
        overrides = {"data.path": store, "mesh": mesh} | changed.get(f"p{i}", {})
        flags = [f"--coordinator=localhost:{port}", f"--processes={count}", f"--process_id={i}", "--init_timeout=60"]
        devices = f" --xla_force_host_platform_device_count={TOGETHER // count}"
        # XLA takes a thread a core, and gloo blocks one a device: with fewer than there are devices they wait for ever.
        threads = {"NPROC": "32"}
        env = os.environ | PATH | threads | {"XLA_FLAGS": os.environ["XLA_FLAGS"] + devices}
        command = laws.command(str(config), workdir, overrides) + flags
        processes.append(
            subprocess.Popen(
                command, cwd=laws.ROOT, env=env, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
            )
        )
    return processes


def finish(processes, status=0) -> list[str]:
    out = [p.communicate(timeout=300)[0] for p in processes]
    for p, text in zip(processes, out):
        assert p.returncode == status, text
    return out


def agree(workdir, reference, steps):
    found, wanted = laws.losses(workdir), laws.losses(reference)
    assert list(found) == list(steps)
    for step in steps:
        for name, value in wanted[step].items():
            if name == "loss" or name.split("/")[0] in ("masked", "contrastive"):
                np.testing.assert_allclose(found[step][name], value, rtol=1e-5, err_msg=f"{name} at step {step}")


@pytest.mark.slow
def test_processes_train_stop_and_resume_as_one_run(config, token_store, tmp_path):
    """Two processes are stopped by a signal to one of them; one process of 8 devices and four of 2 go on from there."""
    reference = tmp_path / "reference"
    finish(start(config, reference, token_store, 1))
    two = tmp_path / "two"
    processes = start(config, two, token_store, 2)
    deadline = time.time() + 200
    while not ((two / "metrics.jsonl").exists() and 2 in laws.losses(two)):
        assert time.time() < deadline and all(p.poll() is None for p in processes), finish(processes)
        time.sleep(0.01)
    processes[1].send_signal(signal.SIGTERM)
    out = finish(processes, status=75)
    stopped = max(laws.losses(two))
    assert 2 <= stopped < 8 and f"stopped by a signal at step {stopped}" in out[0]
    agree(two, reference, range(1, stopped + 1))
    assert "2 process(es), 8 × cpu" in out[0] and "4 of 8 rows" in out[0]
    for count, mesh in ((1, "ddp"), (4, "fsdp=2,tensor=4")):  # of the four, two share the rows of each half
        resumed = tmp_path / f"resumed_{count}"
        shutil.copytree(two, resumed)
        out = finish(start(config, resumed, token_store, count, mesh))
        assert f"from step {stopped} of 8" in out[0]
        agree(resumed, reference, range(1, 9))


def test_processes_that_differ_are_named(config, token_store, tmp_path):
    out = finish(start(config, tmp_path / "run", token_store, 2, p1={"optim.lr": 0.5}), status=1)
    assert all("process 1 on" in o and "differs from process 0 in its config: start every process" in o for o in out)


def test_a_process_that_waits_alone_says_so(config, tmp_path):
    flags = [f"--coordinator=localhost:{free_port()}", "--processes=2", "--process_id=0", "--init_timeout=5"]
    command = laws.command(str(config), tmp_path / "run", {}) + flags
    env = os.environ | PATH
    done = subprocess.run(command, cwd=laws.ROOT, env=env, capture_output=True, text=True, timeout=120)
    assert done.returncode == 75 and "did not all come to localhost" in done.stderr
