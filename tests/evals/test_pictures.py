"""Pictures of a page: the right examples, framed where they are right, on a run that reads images and captions."""

import numpy as np
import pytest
from matplotlib import pyplot as plt

from configs import clip_b16
from data_pipeline.sources.emoji import Source
from pretrain import build
from pretrain.evals import page, pictures
from pretrain.evals.base import Context

SPLITS = ("val", "test")


@pytest.fixture(scope="module")
def images():
    return pictures.Images(Context(build.parse(clip_b16.get_config("tiny")), None, {}))


def test_shows_examples_by_their_number(images):
    source = Source(SPLITS)
    some = [source[i] for i in (200, 3, 90)]
    assert images.has("image") and not images.has("text") and not images.has("image+text")
    shown = images.show("image", [e["row"] for e in some], SPLITS)
    size = images.modalities["image"].shape[0]
    for got, e in zip(shown, some):
        step = 64 // size
        assert got.shape == (size, size, 3)
        assert np.abs(got.astype(int).mean() - e["render3d"][::step, ::step].astype(int).mean()) < 6
    assert images.show("text", [some[1]["row"]], SPLITS) == [some[1]["name"]["en"].casefold()]


def test_nearest_frames_the_own_partner(images):
    rows, open_before = [int(Source(SPLITS)[i]["row"]) for i in range(4)], plt.get_fignums()
    near = np.asarray([[rows[1], rows[0]], [rows[2], rows[3]]])
    figure = images.nearest("text", "image", np.asarray(rows[:2]), near, SPLITS)
    framed = [axis.spines["left"].get_visible() for axis in figure.axes]
    assert framed == [False, True, False, False]
    assert pictures.png(figure).startswith('<img alt="" src="data:image/png;base64,')
    assert plt.get_fignums() == open_before


def test_other_text_tokenizers_take_no_sentinels(images, monkeypatch):
    class Foreign:
        def decode(self, ids):
            return " ".join(str(i) for i in ids)

    monkeypatch.setattr(build, "text_tokenizers", lambda run: {images.modalities["text"].tokenizer: Foreign()})
    assert images.words("text", [[5, 6, 0]], [[True, True, False]]) == ["5 6"]


def test_page_escapes_and_keeps_checkpoints_apart():
    scores = {"knn/a<b": {"value": 0.5, "chance": None, "untrained": 0.25}}
    other = {"knn/only": {"value": 1.0, "chance": 0.1, "untrained": None}}
    found = {"device": "cpu", "checkpoints": [
        {"workdir": "x", "step": 1, "scores": scores, "left_out": {"nll": "no <decoder>"}},
        {"workdir": "y", "step": 2, "scores": other, "left_out": {}},
    ]}  # fmt: skip
    html = page.render(found, [page.Held({}, {}, None)] * 2)
    assert "a&lt;b" in html and "no &lt;decoder&gt;" in html
    cells = "<tr><td>only</td><td></td><td></td><td></td><td></td><td>1.000</td><td>0.100</td><td></td><td></td></tr>"
    assert cells in html
