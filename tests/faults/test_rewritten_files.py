"""What is written again is whole under its name at any moment; what cannot be written leaves what was there."""

import json
import os
import resource
import signal

import pytest

from pretrain import metrics, runtime, storage
from pretrain.evals import watch


@pytest.fixture
def full_disk():
    """No file may grow beyond a few bytes."""
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100, hard))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    signal.signal(signal.SIGXFSZ, handler)


def test_a_config_that_cannot_be_written_stays(tmp_path, request):
    first = json.dumps({"steps": 1, "log": {"every": 1, "note": "x" * 200}})
    with runtime.claim_workdir(tmp_path, first):
        pass
    request.getfixturevalue("full_disk")
    with pytest.raises(ValueError, match="cannot be written"):
        with runtime.claim_workdir(tmp_path, first.replace("x", "y")):
            pass
    assert storage.read_config(tmp_path) == json.loads(first)
    assert [f.name for f in tmp_path.iterdir()] == ["config.json"]


def test_what_did_not_change_is_not_written(tmp_path):
    file = tmp_path / "a"
    storage.write(file, "text")
    os.utime(file, (1, 1))
    storage.write(file, b"text")
    assert file.stat().st_mtime == 1
    storage.write(file, "other")
    assert file.read_text() == "other" and [f.name for f in tmp_path.iterdir()] == ["a"]


BROKEN = (b'{"step": 3, "lo', b"\xff\xfe", b"[1]", b'{"loss": 1}', b'{"step": "x"}', b"null", b"[" * 100_000)


@pytest.mark.parametrize("broken", BROKEN)
@pytest.mark.parametrize("at", [0, 1, 2])
def test_a_broken_row_of_the_log_is_left_out(tmp_path, at, broken, capsys):
    rows = [b'{"step": 1, "loss": 1.0}', b'{"step": 2, "loss": NaN}']
    (tmp_path / "metrics.jsonl").write_bytes(b"\n".join([*rows[:at], broken, *rows[at:]]))
    log = metrics._continue_jsonl(tmp_path / "metrics.jsonl", 2)
    log.write('{"step": 3, "loss": 3.0}\n')
    log.close()
    assert (tmp_path / "metrics.jsonl").read_bytes() == b"\n".join([*rows, b'{"step": 3, "loss": 3.0}\n'])
    assert "metrics.jsonl: left out 1 line(s) that are no rows" in capsys.readouterr().out


def test_a_broken_row_of_scores_is_left_out(tmp_path):
    (tmp_path / "evals.jsonl").write_bytes(b'{"step": 1, "a": 1.0}\n{"step": 2,')
    assert watch._scored(tmp_path) == {1}
    watch._append(tmp_path, {"step": 2, "a": 2.0})
    assert (tmp_path / "evals.jsonl").read_text() == '{"step": 1, "a": 1.0}\n{"step": 2, "a": 2.0}\n'
