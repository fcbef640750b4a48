"""A checkpoint whose files are cut, emptied, missing, unreadable or changed is named, and never used in silence."""

import json
import os
import resource
import shutil
import subprocess
import time

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pretrain import digests
from pretrain.checkpoint import Checkpointer, damage, load_params, newest_sound, read_info, steps
from pretrain.step import TrainState


def state(step):
    params = {"model": {"w": np.full((64, 64), step, np.float32), "b": np.arange(3.0) + step}}
    return TrainState(np.asarray(step, np.int32), params, {"m": np.ones(5, np.float32)}, {})


class Position:
    def __init__(self, at=0):
        self.at = at

    def get_state(self):
        return {"at": self.at}

    def set_state(self, state):
        self.at = state["at"]


def save(workdir, *numbers, **kwargs):
    with Checkpointer(workdir, last=9, info={"source": "a"}, **kwargs) as checkpointer:
        for step in numbers:
            checkpointer.save(state(step), Position(step), metric=1.0 / step)


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """A workdir of two checkpoints."""
    workdir = tmp_path_factory.mktemp("saved")
    (workdir / "config.json").write_text("{}")
    save(workdir, 1, 2)
    return workdir


@pytest.fixture
def workdir(saved, tmp_path):
    return shutil.copytree(saved, tmp_path / "run")


def files(folder):
    return [f for f in sorted(folder.rglob("*")) if f.is_file()]


def flip(file, at=None):
    data = bytearray(file.read_bytes())
    data[len(data) // 2 if at is None else at] ^= 1
    file.write_bytes(data)


def unreadable(file):
    file.unlink()
    file.mkdir()  # root may read everything else


KINDS = {
    "cut": lambda file: file.write_bytes(file.read_bytes()[:-1]),
    "emptied": lambda file: file.write_bytes(b""),
    "missing": lambda file: file.unlink(),
    "unreadable": unreadable,
    "flipped": flip,
}


@pytest.mark.parametrize("kind", KINDS)
def test_damage_of_any_file_is_named(workdir, kind):
    newest = workdir / "checkpoints" / "2"
    assert damage(newest) == "" and len(files(newest)) > 10
    for file in files(newest):
        kept = file.read_bytes()
        KINDS[kind](file)
        if file == newest / "commit_success.txt":  # only buckets ask whether it is there
            assert damage(newest) == "" and steps(workdir) == [1, 2]
        else:
            assert str(file) in damage(newest) and newest_sound(workdir) == 1, file
            with pytest.raises(ValueError, match=f"{file}.* step 2 is damaged.*or move its folder away .*there is 1"):
                load_params(workdir)
            assert load_params(workdir, 1)["model"]["w"][0, 0] == 1
        shutil.rmtree(file) if file.is_dir() else None
        file.write_bytes(kept)
    assert damage(newest) == ""


def test_every_bit_of_what_orbax_notes_is_covered(workdir):
    """Orbax reads it wherever it looks for checkpoints; of keys that it does not know it says so, without a name."""
    file = workdir / "checkpoints" / "2" / "_CHECKPOINT_METADATA"
    whole = file.read_bytes()
    for at in range(0, len(whole), 3):
        flip(file, at)
        if problem := damage(file.parent):
            assert str(file) in problem and newest_sound(workdir) == 1
        else:
            left, held = (json.loads(text) for text in (file.read_bytes(), whole))
            changed = {k for k in held if left.get(k) != held[k]}
            assert changed <= {"init_timestamp_nsecs", "commit_timestamp_nsecs", "item_handlers"}
            assert load_params(workdir)["model"]["w"][0, 0] == 2
        file.write_bytes(whole)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", ["data/position.json", "state/manifest.ocdbt", "_CHECKPOINT_METADATA"])
def test_a_run_goes_on_from_the_one_before(workdir, kind, name, capsys):
    KINDS[kind](workdir / "checkpoints" / "2" / name)
    with Checkpointer(workdir, last=9) as checkpointer:
        (line,) = capsys.readouterr().out.splitlines()
        assert "step 2 is damaged and set aside as 2.damaged, to be deleted" in line
        assert f"{workdir}/checkpoints/2/{name}" in line
        assert checkpointer.latest() == 1
        position = Position()
        held = checkpointer.restore(jax.tree.map(jnp.asarray, state(0)), position)
        np.testing.assert_array_equal(held.params["model"]["w"], state(1).params["model"]["w"])
        assert position.at == 1
        checkpointer.save(state(2), Position(2))
    assert steps(workdir) == [1, 2] and damage(workdir / "checkpoints" / "2") == ""
    assert (workdir / "checkpoints" / "2.damaged").exists() and read_info(workdir, 1) == {"source": "a"}


def test_a_step_that_is_damaged_twice_is_set_aside_twice(workdir):
    for _ in range(2):
        flip(workdir / "checkpoints" / "2" / "state" / "_METADATA")
        save(workdir, 2)
    assert {p.name for p in (workdir / "checkpoints").iterdir()} == {"1", "2", "2.damaged", "2.damaged1"}


def test_a_run_never_starts_anew_over_damaged_checkpoints(workdir):
    for step in (1, 2):
        flip(workdir / "checkpoints" / str(step) / "data" / "position.json")
    with pytest.raises(ValueError, match=r"no checkpoint is sound: .*1/data/position.json.*2/data/position.json"):
        Checkpointer(workdir)
    assert steps(workdir) == [1, 2], "nothing was moved"


def test_a_checkpoint_without_its_list_is_damaged(workdir):
    (workdir / "checkpoints" / "2" / digests.FILE).write_text("# none were asked for")
    with pytest.raises(ValueError, match="2/SHA256SUMS is broken"):
        load_params(workdir)


def test_verification_can_be_left_out(workdir):
    (workdir / "config.json").write_text(json.dumps({"checkpoint": {"verify": False}}))
    flip(workdir / "checkpoints" / "2" / digests.FILE)
    assert load_params(workdir)["model"]["w"][0, 0] == 2
    save(workdir, 3, verify=False)
    assert digests.read(workdir / "checkpoints" / "3") == {}
    (workdir / "config.json").write_text("{}")
    assert load_params(workdir)["model"]["w"][0, 0] == 3, "what was saved without sha256 has nothing to compare"


def test_what_orbax_says_is_one_sentence(workdir):
    (workdir / "config.json").write_text(json.dumps({"checkpoint": {"verify": False}}))
    for file in ("manifest.ocdbt", "_METADATA"):
        shutil.copytree(workdir / "checkpoints" / "1", workdir / "checkpoints" / "3")
        (workdir / "checkpoints" / "3" / "state" / file).write_bytes(b"")
        with pytest.raises(ValueError, match=r"checkpoints/3 cannot be read as a checkpoint of this network .*damaged"):
            load_params(workdir)
        shutil.rmtree(workdir / "checkpoints" / "3")


def test_none_is_due_where_every_is_zero(workdir):
    with Checkpointer(workdir, every=0) as never, Checkpointer(workdir, every=3) as third:
        assert not any(map(never.due, range(10))) and [s for s in range(1, 10) if third.due(s)] == [3, 6, 9]


def test_a_workdir_that_is_gone_is_noticed_at_the_next_save(workdir):
    with Checkpointer(workdir, last=9) as checkpointer:
        checkpointer.save(state(3), Position(3))
        checkpointer._finish()
        shutil.move(workdir, workdir.with_name("elsewhere"))
        with pytest.raises(FileNotFoundError, match="run/checkpoints is gone since this run began: was the workdir"):
            checkpointer.save(state(4), Position(4))
    assert not workdir.exists(), "nothing was written in its place"


def test_a_save_that_fails_is_one_sentence_and_the_one_before_stays(workdir):
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    with pytest.raises(OSError, match=r"checkpoints/3: this checkpoint could not be written \(.*one that is whole"):
        with Checkpointer(workdir, last=1) as checkpointer:
            resource.setrlimit(resource.RLIMIT_FSIZE, (100, hard))
            try:
                checkpointer.save(state(3), Position(3))
                checkpointer._finish()
            finally:
                resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert newest_sound(workdir) == 2
    save(workdir, 3)
    assert steps(workdir) == [1, 2, 3]


def test_saves_leave_no_descriptor_open(workdir):
    opened = lambda: len(os.listdir("/proc/self/fd"))
    with Checkpointer(workdir, last=2) as checkpointer:
        for step in range(3, 9):
            checkpointer.save(state(step), Position(step))
        before = opened()
        for step in range(9, 33):
            checkpointer.save(state(step), Position(step))
        checkpointer._finish()
        assert opened() <= before + 8, "three a save would be 72"


def test_the_list_is_that_of_sha256sum(workdir):
    folder = workdir / "checkpoints" / "2"
    assert subprocess.run(["sha256sum", "--quiet", "-c", digests.FILE], cwd=folder).returncode == 0
    assert "data/position.json" in digests.read(folder)


def test_a_file_is_read_once_a_process_until_it_is_written_again(tmp_path, monkeypatch):
    read, sha256 = [], digests._sha256
    monkeypatch.setattr(digests, "_sha256", lambda file: read.append(file.name) or sha256(file))
    for name in "ab":
        (tmp_path / name).write_text(name)
    digests.write(tmp_path)
    read.clear()
    assert digests.check(tmp_path) == digests.check(tmp_path) == [] and sorted(read) == ["a", "b"]
    time.sleep(0.02)  # longer than the clock of a file system
    (tmp_path / "a").write_text("c")
    found = digests.check(tmp_path)
    assert len(found) == 1 and "a has another sha256" in found[0] and digests.check(tmp_path) == found
