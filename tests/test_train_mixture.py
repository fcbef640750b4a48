"""A mixture of sources through the trainer, each source with components of its own of the masked objective."""

import jax
import laws
import numpy as np
import pytest
import tiny

from data_pipeline.pipeline import train_batches
from pretrain import build
from pretrain.models.passes import leaves
from pretrain.program import Program
from pretrain.step import example_keys
from pretrain.train import train


@pytest.fixture
def config(token_store):
    """Pictures, which are completed, and texts, which are; what the two have in common is drawn for neither."""
    c = tiny.emoji_run(token_store, terms=("masked",))
    c.steps, c.data = 3, dict(
        source="", sources=[
            dict(name="tokens", source="tokens", path=str(token_store), weight=1.0),
            dict(name="texts", source="emoji", weight=2.0, modalities=["caption"]),
        ],
    )  # fmt: skip
    own = {"tokens": "render3d", "texts": "caption"}
    c.objectives.masked.mixture = [
        dict(inputs={m: 1.0}, targets={m: 1.0}, sources=[source]) for source, m in own.items()
    ]
    c.evals = dict(val=dict(evaluator="losses", every=0, batch_size=8, repeats=1))
    return c


def test_each_source_is_masked_by_its_own_components(config):
    run = build.parse(config)
    program, source = Program(run), build.source(run.data, "train")
    batch = next(iter(train_batches(source, build.encoder(run, train=True), batch_size=96, seed=0)))
    (masking,) = {leaf.make for leaf in leaves(program.objectives["masked"].passes(train=True).values())}
    made = jax.jit(masking)(batch, example_keys(0, 0, 96))
    inputs, queries = made["inputs"].tokens, made["queries"].tokens
    names = [m.name for m in run.modalities]
    own = np.array([names.index("render3d"), names.index("caption")])[batch["source"]][:, None]
    assert np.bincount(batch["source"]).tolist() == [32, 64]
    np.testing.assert_array_equal(batch["source"], batch["row"] >= 64)  # the store has 64 examples
    for tokens in (inputs, queries):
        assert (np.asarray(tokens.modality) == own)[np.asarray(tokens.valid)].all()
        assert np.asarray(tokens.valid).any(1).mean() > 0.8, "a text may be shown or asked whole"


@pytest.mark.slow
def test_it_trains_and_evaluates(config, tmp_path, capsys):
    train(config, tmp_path / "run")
    assert np.isfinite([row["loss"] for row in laws.losses(tmp_path / "run").values()]).all()
    assert "val/masked/caption" in (tmp_path / "run" / "metrics.jsonl").read_text()
    assert "33.3%  64 examples" in capsys.readouterr().out


@pytest.mark.parametrize(
    "change, message",
    [
        (lambda c: c["data"]["sources"][1].pop("name"), r"mixture\[1\].sources: no source 'texts'"),
        (lambda c: c["objectives"]["masked"]["mixture"].pop(), r"applies to config.data.sources\[1\] \(name='texts'\)"),
        (lambda c: c["data"]["sources"][1].update(name="tokens"), "their names are tokens, tokens: give each one"),
    ],
    ids=["no such source", "no component", "one name twice"],
)
def test_mistakes_are_told_before_anything_is_compiled(config, tmp_path, change, message):
    c = config.to_dict()
    change(c)
    with pytest.raises(ValueError, match=message):
        train(build.from_json(build.to_json(type(config)(c))), tmp_path / "run")
    assert not (tmp_path / "run").exists()
