"""A run whose newest checkpoint is damaged, through the trainer and what opens a workdir."""

import jax
import numpy as np
import pytest

from configs import emoji_tokenizer
from pretrain.checkpoint import load_params
from pretrain.restore import restore
from pretrain.train import train


def config():
    c = emoji_tokenizer.get_config("gray-fsq-linear")
    c.modalities = [{**m, "shape": (16, 16, 1)} for m in c.modalities[:1]]
    c.steps, c.batch_size, c.evals, c.optim, c.log.every = 3, 8, {}, dict(lr=1e-3, warmup=1), 1
    c.checkpoint.every, c.checkpoint.keep = 1, 3
    return c


@pytest.mark.slow
def test_a_damaged_run_ends_where_a_sound_one_does(tmp_path, capsys):
    train(config(), tmp_path / "run")
    want = load_params(tmp_path / "run")
    newest = tmp_path / "run" / "checkpoints" / "3"
    file = max((f for f in newest.rglob("*") if f.is_file()), key=lambda f: f.stat().st_size)
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 4
    file.write_bytes(data)
    second = config()
    with second.unlocked():
        second.load = str(tmp_path / "run")
    for use in (restore, lambda _: train(second, tmp_path / "second")):
        with pytest.raises(ValueError, match=rf"{file} has another sha256 .*: the checkpoint of step 3 is damaged"):
            use(tmp_path / "run")
    with open(tmp_path / "run" / "metrics.jsonl", "a") as log:
        log.write('{"step": 4, "lo')
    capsys.readouterr()
    train(config(), tmp_path / "run")
    out = capsys.readouterr().out
    assert "step 3 is damaged and set aside as 3.damaged" in out and "from step 2 of 3" in out
    jax.tree.map(np.testing.assert_array_equal, load_params(tmp_path / "run"), want)
    assert not (tmp_path / "second").exists() and not (tmp_path / "run" / ".lock").exists()
