"""The wheel, unpacked far from the checkout: a folder becomes a config, trains, is judged, written and opened."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

ROOT = Path(__file__).parents[1]
OPEN = """
import pretrain, numpy as np
run = pretrain.open("run")
print(pretrain.__file__, run.step, run.embed("text", ["a red thing", "a dog"]).shape)
"""


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    """run(*args, cwd) → what a program of the installed wheel prints."""
    made, site = tmp_path_factory.mktemp("wheel"), tmp_path_factory.mktemp("site")
    pip = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check"]
    subprocess.run([*pip, "wheel", "--no-deps", "--wheel-dir", made, ROOT], check=True, cwd=made)
    (wheel,) = made.glob("tokenloom-*.whl")
    subprocess.run([*pip, "install", "--no-deps", "--target", site, wheel], check=True)
    environment = os.environ | {"PYTHONPATH": str(site), "JAX_PLATFORMS": "cpu"}

    def run(*args, cwd):
        done = subprocess.run(
            [sys.executable, *args], cwd=cwd, env=environment, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
        return done.stdout

    run.site = site
    return run


@pytest.mark.slow
def test_from_a_folder_to_a_model(installed, tmp_path):
    pictures, rng = tmp_path / "pictures", np.random.default_rng(0)
    pictures.mkdir()
    for i, word in enumerate(("red", "green", "blue", "black") * 5):
        Image.fromarray(rng.integers(0, 255, (40, 40, 3)).astype(np.uint8)).save(pictures / f"{i:02}.png")
        (pictures / f"{i:02}.txt").write_text(f"a {word} thing, number {i}")
    command = lambda *args: installed("-m", "tools.command", *args, cwd=tmp_path)
    assert "18 in train, 2 in val" in command("start", "pictures")
    command("train", "pictures.py", "--workdir=run", "--config.steps=2", "--config.optim.warmup=1", "--config.mesh=ddp",
            "--config.batch_size=8")  # fmt: skip
    assert "step 2 of 2" in command("show", "run")
    command("evals", "--checkpoint=run")
    assert (tmp_path / "run" / "eval.html").exists()
    command("convert", "--workdir=run", "--write=clip")
    assert (tmp_path / "clip" / "model.safetensors").exists() and (tmp_path / "clip" / "tokenizer.json").exists()
    told = installed("-c", OPEN, cwd=tmp_path)
    assert told.startswith(str(installed.site)) and told.endswith("2 (2, 128)\n")


@pytest.mark.slow
def test_configs_that_come_with_it_are_found_anywhere(installed, tmp_path):
    told = installed("-m", "tools.command", "plan", "clip_b16:tiny", "--topology=h100-4", cwd=tmp_path)
    assert "VERDICT   fits" in told
