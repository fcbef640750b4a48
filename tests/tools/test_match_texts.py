"""Texts on classes are given to the pictures that they fit, in a folder that a run trains on."""

import json

import numpy as np
import pytest
from PIL import Image
from toy_run import write_run

from configs import clip_b16
from configs.systems import gist
from pretrain import build
from pretrain.evals.features import embed_texts, represent, unit
from pretrain.evals.harness import open_run
from tools import match_texts

CAPTIONS = {"owl": ["a grey owl", "an owl that flies", "an owl asleep"], "jay": ["a blue jay", "jays", "a jay sings"]}


@pytest.fixture(scope="module")
def workdir(tmp_path_factory):
    """Of an untrained CLIP, which has its own opinion."""
    path = tmp_path_factory.mktemp("clip")
    c = clip_b16.get_config("tiny")
    for tower in c.model.towers:
        tower.update(dict(dim=16, heads=2, depth=1))
    write_run(c, path)
    return path


@pytest.fixture
def folder(tmp_path):
    rng = np.random.default_rng(0)
    lines = []
    for i in range(7):
        Image.fromarray(rng.integers(256, size=(40, 40, 3), dtype=np.uint8)).save(tmp_path / f"{i}.png")
        lines.append({"image": f"{i}.png" if i != 3 else None, "species": ["owl", "jay"][i % 2], "note": i})
    (tmp_path / "train.jsonl").write_text("\n\n".join(map(json.dumps, lines)) + "\n")
    (tmp_path / "captions.json").write_text(json.dumps(CAPTIONS))
    return tmp_path


def command(workdir, folder, **more):
    flags = dict(checkpoint=workdir, path=folder, captions=folder / "captions.json", label="species", k=2) | more
    return [f"--{name}={value}" for name, value in flags.items()]


def test_each_picture_is_given_the_likest_of_its_own_class(workdir, folder, capsys):
    match_texts.main(command(workdir, folder))
    assert "6 of 7 examples, 2 texts each" in capsys.readouterr().out
    lines = [json.loads(line) for line in (folder / "matched.jsonl").read_text().splitlines()]
    assert [line["note"] for line in lines] == [0, 1, 2, 4, 5, 6], "the fourth has no picture"
    restored, context = open_run(workdir, data=dict(source="files", path=str(folder), fields={"image": "image"}))
    rows, z = represent(context, restored.params, "image", "train", "z")
    for line, row, picture in zip(lines, rows, z):
        name = line["species"]
        assert row == line["note"]
        texts = unit(embed_texts(context, restored.params, "text", CAPTIONS[name]))
        order = np.argsort(-(texts @ picture))[:2]
        assert line["caption"] == [f"{name}: {CAPTIONS[name][i]}" for i in order]


def test_a_run_trains_on_what_was_written(workdir, folder):
    match_texts.main(command(workdir, folder))
    c = gist.get_config("tiny")
    c.data = dict(source="files", path=str(folder), train="matched")
    c.modalities[0]["field"], c.modalities[1]["field"] = "image", "caption"
    c.labels[0].update(field="species", vocab_size=2, classes=["jay", "owl"])
    run = build.parse(c)
    source, encode = build.source(run.data, run.data.train), build.encoder(run, train=True)
    seen = {encode(source[0], np.random.default_rng(i))["text"]["ids"].tobytes() for i in range(20)}
    assert len(source) == 6 and len(seen) == 2, "one of its texts is drawn"
    assert encode(source[1], np.random.default_rng(0))["species"]["ids"] == [0]


@pytest.mark.parametrize(
    "more, message",
    [
        (dict(k=4), "k=4: class 'jay' has 3 texts: write more, or take fewer"),
        (dict(label="kind"), "--label: 'kind': row 0 of 'train' has no such field; all have"),
        (dict(image="photo"), "--fields: no modality 'photo'; the run has image, text"),
        (dict(text="words"), "--text=words: .* embeds image, text"),
        (dict(template="{label}"), r"--template=\{label\}: needs \{text\} where the text goes"),
        (dict(out="train"), "--out=train: would be written over what is read"),
    ],
)
def test_mistakes_are_named_and_nothing_is_written(workdir, folder, more, message):
    before = (folder / "train.jsonl").read_text()
    with pytest.raises(ValueError, match=message):
        match_texts.main(command(workdir, folder, **more))
    assert (folder / "train.jsonl").read_text() == before and not (folder / "matched.jsonl").exists()


@pytest.mark.parametrize("held, message", [("[", "no JSON"), ('["a"]', "must hold"), ('{"owl": ["a", ""]}', "must ho")])
def test_captions_of_another_form_are_named(workdir, folder, held, message):
    (folder / "captions.json").write_text(held)
    with pytest.raises(ValueError, match=rf"--captions=.*captions.json: {message}"):
        match_texts.main(command(workdir, folder))
