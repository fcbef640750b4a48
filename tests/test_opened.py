"""`pretrain.open`: a run's vectors, what it makes and how it is judged, in a line each; the same as the tools give."""

import numpy as np
import pytest

import pretrain
from pretrain.evals import features
from pretrain.generate.chain import Target


@pytest.fixture(scope="module")
def run(toy_workdir):
    return pretrain.open(toy_workdir)


def picture(seed, shape=(80, 64, 3)):
    return np.random.default_rng(seed).integers(0, 255, shape).astype(np.uint8)


def test_vectors_are_those_of_the_tasks(run):
    batch = next(run.context.batches(("val",), 8))
    shown = run.show("caption", batch["caption"])
    z = run.embed("caption", shown)
    order = features.features(run.context, run.restored.params, "caption", ("val",)).at(batch["row"])
    assert z.shape == (8, 16) and len(set(shown)) > 4
    np.testing.assert_allclose(z, order.z, atol=1e-5)
    pictures = run.embed("render3d", [picture(0), picture(1), picture(0)])
    np.testing.assert_array_equal(pictures[0], pictures[2])
    assert not np.allclose(pictures[0], pictures[1])
    np.testing.assert_allclose(np.linalg.norm(pictures, axis=1), 1, rtol=1e-5)


def test_what_is_made_goes_by_seed_and_what_is_given(run):
    wanted = [Target("render3d", steps=2), Target("caption", temperature=0.0)]
    made = run.generate({"caption": ["red heart", "a dog"]}, wanted[:1], seed=1)
    assert [p.shape for p in made["render3d"]] == [(64, 64, 3)] * 2
    again = run.generate({"caption": ["red heart", "a dog"]}, wanted[:1], seed=1)
    other = run.generate({"caption": ["red heart", "a dog"]}, wanted[:1], seed=2)
    assert np.array_equal(made["render3d"], again["render3d"]) and not np.array_equal(
        made["render3d"], other["render3d"]
    )
    both = run.generate({"render3d": [picture(0)]}, ["caption"])
    assert list(both) == ["caption"] and isinstance(both["caption"][0], str)
    assert len(run.generate({}, wanted)["caption"]) == 1


def test_scores_stand_beside_chance_and_the_untrained_network(run):
    scores = run.evaluate(["retrieval"])
    assert all(set(v) == {"value", "chance", "raw", "untrained"} for v in scores.values())
    assert scores["retrieval/render3d→caption/R@1"]["chance"] == 1 / 32


@pytest.mark.parametrize(
    "use, message",
    [
        (lambda r: r.embed("sound", ["x"]), "'sound': this network makes no vector of it; it does of render3d"),
        (lambda r: r.embed("render3d", [picture(0, (9, 9, 1))]), r"uint8\[9, 9, 1\]: give uint8\[H, W, 3\]"),
        (lambda r: r.generate({"sound": ["x"]}, ["caption"]), "neither a text nor a picture of this run"),
        (lambda r: r.generate({"caption": ["x"], "render3d": []}, ["render3d"]), "as many values of each modality"),
        (lambda r: r.evaluate(["retreival"]), "no task 'retreival'"),
    ],
)
def test_what_a_run_does_not_have_is_named(run, use, message):
    with pytest.raises(ValueError, match=message):
        use(run)


def test_no_workdir(tmp_path):
    with pytest.raises(FileNotFoundError, match="is no workdir"):
        pretrain.open(tmp_path)
