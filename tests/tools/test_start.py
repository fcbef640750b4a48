"""A folder of one's own becomes a config that trains: what is found, what is written, what is refused."""

import csv
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from absl import flags
from PIL import Image

from data_pipeline.text import TextTokenizer
from pretrain import build, config_flag
from pretrain.train import train
from tools import show
from tools.start import __main__ as start
from tools.start import config, folder, look

COLOURS = ("red", "green", "blue", "black", "white")


@pytest.fixture
def pictures(tmp_path):
    """pictures(write) → a folder of 20 pictures of 40 × 48 pixels; write(folder, name, caption) puts a text to each."""

    def make(write):
        path = tmp_path / "my pictures"
        path.mkdir()
        rng = np.random.default_rng(0)
        for i in range(20):
            caption = f"a {COLOURS[i % 5]} thing, number {i}"
            name = write(path, f"{i:02}.png", caption)
            (path / name).parent.mkdir(exist_ok=True)
            Image.fromarray(rng.integers(0, 255, (40, 48, 3)).astype(np.uint8)).save(path / name)
        return path

    return make


def beside(path, name, caption):
    (path / name).with_suffix(".txt").write_text(f"{caption}\n\nanother line\n")
    return name


def in_classes(path, name, caption):
    return f"{caption.split()[1]}/{name}"


def listed(path, name, caption):
    with open(path / "metadata.jsonl", "a") as f:
        f.write(json.dumps({"file_name": name, "text": caption, "n": 3}) + "\n")
    return name


def table(path, name, caption):
    file = path / "captions.csv"
    rows = [] if file.exists() else [["image", "id", "caption"]]
    with open(file, "a", newline="") as f:
        csv.writer(f).writerows([*rows, [name, "7", caption]])
    return name


@pytest.mark.parametrize(
    "write, text", [(beside, "caption"), (in_classes, "label"), (listed, "caption"), (table, "caption")]
)
def test_lists_are_written_of_what_goes_with_pictures(pictures, write, text):
    path = pictures(write)
    found = look.look(path, 0.2)
    assert (found.source, found.splits) == ("files", {"train": 16, "val": 4}) and found.path == str(path)
    assert found.best("text").name == text and found.best("picture") == look.Field("image", "picture", 1.0, 40, 3)
    rows = [
        json.loads(line) for split in ("train", "val") for line in (path / f"{split}.jsonl").read_text().splitlines()
    ]
    assert len({row["image"] for row in rows}) == 20
    for row in rows:
        number = int(Path(row["image"]).stem)
        says = row[text] if text == "label" else row[text][0]
        assert COLOURS[number % 5] in says and (text == "label" or says.endswith(f"number {number}"))
    if write is beside:
        assert rows[0][text][1:] == ["another line"]
    assert look.look(path) == found  # they are read, not made again
    with pytest.raises(FileExistsError, match="is there already"):
        folder.write_lists(path, rows, 0.2)


def test_who_is_held_out_is_a_matter_of_names_alone(tmp_path):
    rows = [{"image": f"{i}.png", "caption": ["x"]} for i in range(50)]
    (tmp_path / "a").mkdir(), (tmp_path / "b").mkdir()
    folder.write_lists(tmp_path / "a", rows, 0.1)
    folder.write_lists(tmp_path / "b", rows[::-1], 0.1)
    held = [{json.loads(line)["image"] for line in (tmp_path / d / "val.jsonl").open()} for d in "ab"]
    assert held[0] == held[1] and len(held[0]) == 5


def parsed(file, argument=""):
    values = flags.FlagValues()
    holder = config_flag.define("", values)
    values(["x", f"--config={file}{argument}"])
    return holder.value


@pytest.mark.parametrize("objective", config.OBJECTIVES)
def test_configs_are_runs(pictures, tmp_path, objective, capsys, monkeypatch):
    path = pictures(beside)
    out = tmp_path / "mine.py"
    start.main([str(path), f"--out={out}", f"--objective={objective}"])
    told = capsys.readouterr().out
    assert "18 in train, 2 in val" in told and "image: pictures in 100% of the examples, 40 pixels" in told
    run = build.parse(parsed(out))
    assert set(run.objectives) == {"contrastive": {"contrastive"}, "masked": {"masked"}}.get(
        objective, {"contrastive", "masked"}
    )
    assert (
        run.steps == 200 and run.batch_size == 9 and run.modalities[0].shape[0] == {"contrastive": 40}.get(objective, 5)
    )
    if objective != "contrastive":
        assert build.parse(parsed(out, ":tokenizer")).modalities[0].shape == (40, 40, 3)
        assert f"{out}:tokenizer" in told and "tools.tokenize --source=files" in told
    with pytest.raises(SystemExit):
        start.main([str(path), f"--out={out}"])
    assert "is there already" in capsys.readouterr().err


@pytest.mark.slow
def test_a_written_config_trains_and_its_run_is_shown(pictures, tmp_path):
    path, out, workdir = pictures(beside), tmp_path / "mine.py", tmp_path / "run"
    start.main([str(path), f"--out={out}"])
    c = parsed(out)
    c.steps, c.batch_size, c.mesh = 2, 8, "ddp"
    for tower in c.model.towers:
        tower["depth"] = 1
    c.evals = {}
    c.optim.warmup = 1
    assert "none yet" not in show.describe(str(save(c, workdir)))
    told = show.describe(str(workdir))
    assert "step 2 of 2, batches of 8; loss" in told and "checkpoints  2" in told and f"files {path}" in told
    assert "started " in told and "pretrain.evals --checkpoint=" in told and "JAX" in told
    save(c, workdir)  # finished: it starts and ends at once
    assert show.describe(str(workdir)).count("started ") == 2


def save(c, workdir):
    train(c, str(workdir))
    return workdir


def test_a_tokenizer_of_ones_own_texts(pictures, tmp_path, monkeypatch):
    path, out = pictures(beside), tmp_path / "mine.py"
    monkeypatch.setattr(start, "OWN", 10)
    start.main([str(path), f"--out={out}"])
    run, model = build.parse(parsed(out)), tmp_path / "mine_text.model"
    text, mine = run.modalities[1], TextTokenizer(model)
    assert text.tokenizer == str(model) and text.vocab_size == mine.vocab_size < TextTokenizer().vocab_size
    assert build.text_tokenizers(run)[str(model)].digest == mine.digest and text.sentinels
    assert mine.decode(mine.encode("a red thing, number 3", 99)) == "a red thing, number 3"


@pytest.mark.parametrize(
    "make, message",
    [
        (lambda path: None, "holds no picture that is read"),
        (lambda path: Image.new("RGB", (8, 8)).save(path / "a.png"), "nothing says what its 1 pictures show"),
        (lambda path: (path / "x.tar").touch(), r"no name says which \*.tar are of which split"),
    ],
)
def test_what_is_no_data_is_said(tmp_path, make, message):
    make(tmp_path)
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        look.look(tmp_path)
    with pytest.raises(FileNotFoundError, match="no such folder"):
        look.look(tmp_path / "none")


@pytest.mark.parametrize(
    "file, data, message",
    [
        (
            "metadata.jsonl",
            b'{"file_name": "00.png", "text": "x"}\n{oops\n',
            r"metadata.jsonl, line 2: not JSON, one object",
        ),
        (
            "captions.csv",
            b"image,caption\n00.png,caf\xe9\n",
            r"captions.csv: not a table \(csv\), in UTF-8 .*mend the file",
        ),
        ("captions.csv", b'image,caption\n00.png,"x" y\n', r"captions.csv: not a table \(csv\)"),
    ],
)
def test_a_broken_table_is_named(tmp_path, capsys, file, data, message):
    Image.new("RGB", (8, 8)).save(tmp_path / "00.png")
    (tmp_path / file).write_bytes(data)
    with pytest.raises(SystemExit, match=message):
        start.main([str(tmp_path), f"--out={tmp_path / 'x.py'}"])
    assert not list(tmp_path.glob("*.py")) and not (tmp_path / "train.jsonl").exists()


def test_classes_are_judged_by_class(pictures, tmp_path):
    out = tmp_path / "mine.py"
    start.main([str(pictures(in_classes)), f"--out={out}"])
    run = build.parse(parsed(out))
    assert set(run.final_evals) == {"zero_shot", "knn"} and list(run.final_evals["knn"]["labels"]) == ["label"]


def test_pictures_alone_have_no_pairs(tmp_path):
    fields = (look.Field("image", "picture", 1.0, 40, 3),)
    with pytest.raises(ValueError, match="no texts among its fields: image: pictures"):
        config.choose(look.Found("files", "/x", {"train": 9}, fields), "both", "text", 8000, 8, True)


def test_the_command_has_the_flags_of_the_modules(tmp_path):
    run = lambda *args: subprocess.run(
        [sys.executable, "-m", "tools.command", *args], capture_output=True, text=True, check=False
    )
    listed = run()
    assert listed.returncode == 0 and "tokenloom COMMAND" in listed.stdout and "  train " in listed.stdout
    wrong = run("trian")
    assert wrong.returncode and "there is no command 'trian'" in wrong.stderr
    shown = run("show", str(tmp_path))
    assert shown.returncode == 1 and "is no workdir" in shown.stderr
    wrong = run("start", str(tmp_path), "--val=2")
    assert "tokenloom start: error: --val=2.0: must be a share" in wrong.stderr
    wrong = run("train", "emojy", f"--workdir={tmp_path}")
    assert wrong.returncode and "a config that comes with the project" in wrong.stderr


def test_configs_that_come_with_the_project_are_found_by_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert parsed("clip_b16", ":tiny").batch_size == 64 and parsed("systems/m3pt", ":tiny").steps
    (tmp_path / "clip_b16").write_text(
        "from ml_collections import ConfigDict\ndef get_config():\n    return ConfigDict()\n"
    )
    assert config_flag.find("clip_b16") == "clip_b16"  # one's own file is meant first
