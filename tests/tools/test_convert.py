"""A 4M file → workdir → 4M folder: the same bits; and the workdir opens as any other."""

from pathlib import Path

import numpy as np
import pytest

from pretrain.interop import fourm
from pretrain.restore import restore
from tools import convert

GOLDEN = Path(__file__).parents[1] / "golden" / "fourm"


@pytest.mark.parametrize("name", ["swiglu_nobias", "gelu_bias"])
def test_there_and_back(tmp_path, name, capsys):
    convert.read(GOLDEN / f"{name}.safetensors", tmp_path / "run")
    assert "output heads: tables of their own" in capsys.readouterr().out
    convert.write(tmp_path / "run", tmp_path / "out")
    before, after = (fourm.read_file(p) for p in (GOLDEN / f"{name}.safetensors", tmp_path / "out"))
    assert before[0] == after[0] and before[1].keys() == after[1].keys()
    assert all(np.array_equal(before[1][k], after[1][k]) for k in before[1])
    assert restore(tmp_path / "run").model.config.gated == (name == "swiglu_nobias")
    with pytest.raises(FileExistsError, match="not empty"):
        convert.read(GOLDEN / f"{name}.safetensors", tmp_path / "run")
