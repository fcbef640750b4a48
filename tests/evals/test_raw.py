"""What costs nothing: pixels and tokens, beside which retrieval and k-NN stand."""

import jax
import numpy as np
import pytest

from configs import clip_b16
from configs.common import image, text
from pretrain import build
from pretrain.evals import harness, raw
from pretrain.evals.base import Context
from pretrain.evals.metrics import recall
from pretrain.restore import init_function

SPLITS = ("val", "test")
LINE = dict(
    name="line", kind="pixels", shape=(64, 64, 1), field="line", patch=8, mean=(0.5,), std=(0.5,), targets=False
)


def config():
    """3D and Noto pictures and names by one tokenizer, line art and names by another; 270 are held out."""
    c = clip_b16.get_config("tiny")
    c.modalities = [
        *(image(64, 8, name=name, field=name) for name in ("render3d", "noto")), LINE,
        *(text(16, name=name, field=field) for name, field in (("caption", "name:en"), ("keywords", "keywords"))),
        text(16, 100, "characters", "letters", "name:en"),
        dict(name="drawn", kind="rendered", shape=(8, 256), field="name:en", tokenizer="bitmap", targets=False),
    ]  # fmt: skip
    tower = dict(dim=16, heads=2, depth=1, pool="mean")
    alone = {name: (name,) for name in ("line", "letters", "drawn")}
    read = dict(pictures=("render3d", "noto"), texts=("caption", "keywords")) | alone
    c.model.towers = [dict(name=name, modalities=names, **tower) for name, names in read.items()]
    pairs = [
        ("render3d", "noto"),
        ("noto", "line"),
        ("caption", "keywords"),
        ("caption", "letters"),
        ("noto", "caption"),
    ]
    c.objectives = dict(contrastive=dict(edges=[dict(a=a, b=b) for a, b in pairs]))
    c.final_evals = dict(retrieval=dict(pairs=pairs), knn=dict(modalities=["noto", "caption"], labels=["group"]))
    return c


@pytest.fixture(scope="module")
def context():
    run = build.parse(config())
    objectives = build.objectives(run)
    return Context(run, init_function(build.models(run, objectives), objectives, 0)[0], objectives)


@pytest.fixture(scope="module")
def scores(context):
    run = context.run
    params = jax.jit(init_function(build.models(run, context.objectives), context.objectives, 0)[1])()
    return harness.score(harness.make_tasks(context)[0], params)


def test_mean_centred_pixels_find_an_emoji_of_another_designer(context):
    rows, (a, b) = raw.together(context, ("render3d", "noto"), SPLITS)
    assert a.shape == b.shape == (270, 768) and list(rows) == sorted(rows)
    np.testing.assert_allclose(np.linalg.norm(a, axis=1), 1, rtol=1e-5)
    assert recall(a @ b.T, 1) > 0.4 and recall(a @ b.T, 10) > 0.65


def test_a_colour_and_a_grey_picture_are_compared_in_grey(context):
    _, (a, b) = raw.together(context, ("noto", "line"), SPLITS)
    assert a.shape == b.shape == (270, 256)


def test_texts_are_compared_by_the_tokens_that_they_share(context):
    _, (a, b) = raw.together(context, ("caption", "keywords"), SPLITS)
    batch = next(context.batches(SPLITS, 64))
    one, other = (set(batch[n]["ids"][5][batch[n]["valid"][5]]) for n in ("caption", "keywords"))
    rows, _ = raw.together(context, ("caption", "keywords"), SPLITS)
    at = list(rows).index(batch["row"][5])
    assert a[at] @ b[at] == pytest.approx(len(one & other) / np.sqrt(len(one) * len(other)), rel=1e-5)


@pytest.mark.parametrize(
    "pair",
    [
        ("noto", "caption"),
        ("caption", "letters"),
        ("noto+caption", "render3d"),
        ("noto>line", "noto"),
        ("caption", "drawn"),
    ],
)
def test_what_cannot_be_compared_has_no_such_number(context, pair):
    assert raw.together(context, pair, SPLITS) is None


def test_more_than_fits_into_memory_is_left_out(context, monkeypatch):
    raw._read.cache_clear()
    monkeypatch.setattr(raw, "MOST", 100)
    assert raw.vectors(context, "noto", SPLITS) is None
    raw._read.cache_clear()


def test_scores_stand_beside_it(scores, context):
    _, (a, b) = raw.together(context, ("render3d", "noto"), SPLITS)
    assert scores["retrieval/render3d→noto/R@1"].raw == recall(a @ b.T, 1) > scores["retrieval/render3d→noto/R@1"]
    assert scores["retrieval/noto→render3d/R@10"].raw == recall(b @ a.T, 10)
    assert scores["retrieval/caption→keywords/R@1"].raw > 0 and scores["retrieval/noto→caption/R@1"].raw is None
    assert scores["knn/noto/group"].raw > scores["knn/noto/group"].chance and scores["knn/caption/group"].raw > 0.2
