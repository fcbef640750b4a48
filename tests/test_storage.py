"""A workdir in a bucket: what is refused, and that metrics, traces and configs arrive there; all of it on an emulator.

The emulator needs `pip install gcsfs gcp-storage-emulator`; everything else runs on a bucket in memory.
"""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType, SimpleNamespace

import fsspec
import jax
import laws
import numpy as np
import pytest
from etils.epath import backend
from fsspec.implementations.memory import MemoryFileSystem

from pretrain import metrics, runtime
from pretrain.build import read_run
from pretrain.checkpoint import has_checkpoint, load_params
from pretrain.storage import locate

RUN = "gs://bucket/run"


class Bucket(MemoryFileSystem):
    """Files in memory under gs://."""

    store, pseudo_dirs = {}, [""]

    @classmethod
    def _strip_protocol(cls, path):
        return super()._strip_protocol(str(path).removeprefix("gs://"))


@pytest.fixture
def bucket(monkeypatch):
    monkeypatch.setattr(fsspec, "filesystem", lambda name: Bucket())
    monkeypatch.setattr(backend.fsspec_backend, "_get_filesystem", lambda name: Bucket())
    library = ModuleType("gcsfs")  # takes the place of the real one, and is found
    library.__spec__ = ModuleSpec("gcsfs", None)
    monkeypatch.setitem(sys.modules, "gcsfs", library)
    Bucket.store.clear()
    return Bucket()


@pytest.mark.parametrize("workdir", ["s3://bucket/run", "hf://a/b", "file:///tmp/run", Path(RUN)])
def test_other_storage_is_refused_with_the_remedy(workdir):
    for use in (locate, has_checkpoint, load_params, read_run):
        with pytest.raises(ValueError, match=f"workdir='{workdir}'.*gs://BUCKET/RUN, or mount the storage"):
            use(workdir)


def test_a_bucket_without_its_library_is_refused_and_a_relative_folder_made_absolute(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    assert str(locate("runs/a")) == f"{tmp_path}/runs/a" and not has_checkpoint("runs/a")
    assert list(tmp_path.iterdir()) == [], "looking creates nothing"
    monkeypatch.setitem(sys.modules, "gcsfs", None)
    with pytest.raises(ImportError, match=r"workdir='gs://bucket/run' needs `gcsfs`: pip install 'tokenloom\[gcs\]'"):
        locate(RUN)


def test_a_workdir_in_a_bucket_is_claimed_once(bucket):
    for again in (False, True):
        with runtime.claim_workdir(RUN, '{"steps": 1}') as resumed:
            assert resumed == again
    with pytest.raises(ValueError, match="belongs to a run of another config"):
        with runtime.claim_workdir(RUN, '{"steps": 2}'):
            pass
    assert not bucket.exists(f"{RUN}/.lock")


def test_a_workdir_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ValueError, match=f"workdir={tmp_path}/file/run: cannot be written"):
        with runtime.claim_workdir(tmp_path / "file" / "run", "{}"):
            pass


def rows():
    return [json.loads(row)["step"] for row in Bucket().cat(f"{RUN}/metrics.jsonl").decode().splitlines()]


def test_rows_reach_a_bucket_with_each_checkpoint_and_are_continued_there(bucket):
    log = SimpleNamespace(tensorboard=True, wandb="")
    killed = metrics.Writer(RUN, log, steps=9, start=0, config={})
    for step in range(1, 5):
        killed.write(step, {"loss": 1.0})
        if step < 4:  # then the checkpoint of step 2 is the newest that is complete
            killed.sync()
    assert rows() == [1, 2, 3]
    resumed = metrics.Writer(RUN, log, steps=9, start=2, config={})
    resumed.write(3, {"loss": 1.0})
    resumed.close()
    assert rows() == [1, 2, 3]
    assert any("tensorboard/events" in file for file in bucket.find(RUN))
    killed.close()


def test_a_trace_reaches_a_bucket_whole(bucket, monkeypatch):
    folder = []
    monkeypatch.setattr(runtime.jax.profiler, "start_trace", folder.append)
    monkeypatch.setattr(runtime.jax.profiler, "stop_trace", lambda: (Path(folder[0]) / "a" / "trace").write_text("t"))
    profiler = runtime.Profiler(RUN, "2:2")
    profiler.before(2)
    (Path(folder[0]) / "a").mkdir()
    profiler.after(2, {})
    assert bucket.cat(f"{RUN}/profile/a/trace") == b"t"


def test_looking_at_a_run_leaves_the_checkpoint_that_it_is_writing(tmp_path):
    unfinished = tmp_path / "checkpoints" / "5.orbax-checkpoint-tmp"
    unfinished.mkdir(parents=True)
    assert not has_checkpoint(tmp_path)
    with pytest.raises(FileNotFoundError, match="holds no checkpoint"):
        load_params(tmp_path)
    assert unfinished.exists()


CONFIG = """
import tiny

def get_config():
    c = tiny.emoji_run({!r}, ("masked",))
    c.steps, c.checkpoint.every = 30, 5
    return c
"""


@pytest.fixture
def emulator(monkeypatch):
    """gs:// is an emulator on this machine, with one bucket."""
    pytest.importorskip("gcsfs")
    pytest.importorskip("gcp_storage_emulator")
    with socket.socket() as s:
        s.bind(("localhost", 0))
        port = s.getsockname()[1]
    for name in ("TENSORSTORE_GCS_HTTP_URL", "STORAGE_EMULATOR_HOST"):
        monkeypatch.setenv(name, f"http://localhost:{port}")
    monkeypatch.setenv("GOOGLE_AUTH_TOKEN_FOR_TESTING", "none")
    monkeypatch.setenv("GOOGLE_CLOUD_PROJECT", "none")
    monkeypatch.setenv("GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT", "false")  # it would ask Google what the bucket is
    monkeypatch.setenv("PYTHONPATH", f"{laws.ROOT / 'tests'}:{os.environ.get('PYTHONPATH', '')}")
    start = ["start", f"--port={port}", "--host=localhost", "--default-bucket=bucket", "--in-memory", "--quiet"]
    server = subprocess.Popen([sys.executable, "-m", "gcp_storage_emulator", *start])
    for _ in range(100):
        with socket.socket() as s:
            if s.connect_ex(("localhost", port)) == 0:
                break
        time.sleep(0.1)
    yield
    server.terminate()
    server.wait()


def test_a_run_in_a_bucket_goes_on_to_the_bits_of_one_on_a_disk(emulator, token_store, tmp_path):
    config = tmp_path / "config.py"
    config.write_text(CONFIG.format(str(token_store)))
    laws.run_cli(config, tmp_path / "disk", {})
    process = laws.launch(config, RUN, {})
    for line in process.stdout:
        if line.startswith("step 12/"):
            process.send_signal(signal.SIGKILL)
    process.wait()
    assert f"resuming {RUN} from step" in laws.run_cli(config, RUN, {})
    a, b = (load_params(workdir) for workdir in (tmp_path / "disk", RUN))
    jax.tree.map(np.testing.assert_array_equal, a, b)
    log = [json.loads(row)["step"] for row in (locate(RUN) / "metrics.jsonl").read_text().splitlines()]
    assert log == list(range(1, 31))
