"""One program at a time in a workdir or a store: a second is refused before it writes, a dead one is followed."""

import json
import os
import signal
import subprocess
import sys

import laws
import pytest
import toy_tokenize

from pretrain import lock, runtime
from pretrain.lock import Lock
from tools.tokenize import __main__ as tokenize

HOLD = """
import sys, time
from pretrain.lock import Lock
with Lock(sys.argv[1], *sys.argv[2:]):
    print("held", flush=True)
    time.sleep(60)
"""


@pytest.fixture
def holder(tmp_path):
    """Starts a program that holds the lock of a folder."""
    started = []

    def start(folder=tmp_path, *name):
        process = subprocess.Popen(
            [sys.executable, "-c", HOLD, folder, *name], cwd=laws.ROOT, stdout=subprocess.PIPE, text=True
        )
        started.append(process)
        assert process.stdout.readline() == "held\n"
        return process

    yield start
    for process in started:
        process.kill()
        process.wait()


def test_the_second_is_refused_and_told_who_is_there_and_the_dead_are_followed(tmp_path, holder):
    process = holder()
    with pytest.raises(ValueError, match=f"{tmp_path}: in use by process {process.pid} on .*: stop that one or wait"):
        with Lock(tmp_path):
            pass
    assert [f.name for f in tmp_path.iterdir()] == [".lock"]
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert (tmp_path / ".lock").exists()
    with Lock(tmp_path), pytest.raises(ValueError, match=f"in use by process {os.getpid()} on"):
        with Lock(tmp_path):
            pass
    assert not list(tmp_path.iterdir())


def test_a_run_leaves_the_workdir_of_another_as_it_is(tmp_path, holder):
    holder()
    before = toy_tokenize.contents(tmp_path)
    with pytest.raises(ValueError, match="in use by process"):
        with runtime.claim_workdir(tmp_path, '{"steps": 1}'):
            pass
    assert toy_tokenize.contents(tmp_path) == before


@pytest.mark.parametrize("alive", [True, False])
def test_what_another_host_holds_is_watched(tmp_path, monkeypatch, capsys, alive):
    """No kernel tells of it: it is in use if its holder renews it."""
    file, held = tmp_path / ".lock", {"pid": 7, "host": "elsewhere", "beat": "0"}
    file.write_text(json.dumps(held))

    def sleep(seconds):
        assert seconds == 3 * lock.BEAT
        if alive:
            file.write_text(json.dumps(held | {"beat": "1"}))

    monkeypatch.setattr(lock.time, "sleep", sleep)
    if alive:
        with pytest.raises(ValueError, match="in use by process 7 on elsewhere"):
            Lock(tmp_path).__enter__()
    else:
        with Lock(tmp_path):
            assert json.loads(file.read_text())["pid"] == os.getpid()
    assert "to see whether process 7 on elsewhere still uses it" in capsys.readouterr().out


def test_a_lock_is_renewed(tmp_path, monkeypatch):
    monkeypatch.setattr(lock, "BEAT", 0.01)
    with Lock(tmp_path):
        first = (tmp_path / ".lock").read_text()
        for _ in range(1000):
            if (tmp_path / ".lock").read_text() != first:
                return
            lock.time.sleep(0.01)
    pytest.fail("it stayed as it was")


def test_a_broken_lock_is_nobodys(tmp_path):
    (tmp_path / ".lock").write_bytes(b"\xff{")
    with Lock(tmp_path):
        pass


def test_two_tokenizations_of_one_folder(tmp_path, holder):
    """The second neither starts nor removes what the first has begun; another process of the same division may."""
    holder(tmp_path, ".lock-0-of-2")
    (tmp_path / "a.partial").write_text("begun")
    for process, processes in ((0, 2), (0, 1), (1, 3)):
        with pytest.raises(SystemExit, match=f"--out={tmp_path}: in use by process"):
            with tokenize.hold(tmp_path, process, processes):
                pass
    with tokenize.hold(tmp_path, 1, 2):
        assert (tmp_path / "a.partial").exists()
