"""The likelihood matrix, against each example scored alone, without padding or other targets beside it."""

from collections import Counter

import jax
import jax.numpy as jnp
import laws
import numpy as np
import pytest
from flax import nnx

from configs import emoji
from pretrain.evals.base import Context
from pretrain.evals.nll import Evaluator
from pretrain.models.predictor import Predictor
from pretrain.models.tokens import Shown, TokenSet
from pretrain.ops.cross_entropy import dense_nll


@pytest.fixture(scope="module")
def built(token_store):
    config = emoji.get_config("tiny")
    config.data.path = str(token_store)
    return laws.Built(config)


def token_set(ids, index):
    ids = np.asarray(ids)[None]
    at = np.arange(ids.shape[1])[None]
    return TokenSet(ids, np.full(ids.shape, index), at, np.ones(ids.shape, bool))


@pytest.mark.slow
def test_matrix_equals_each_example_alone(built):
    names = [m.name for m in built.run.modalities]
    context = Context(built.run, built.graphs, built.objectives)
    inputs, targets = ("line", "caption"), ("caption", "noto", "group")
    evaluator = Evaluator(context, inputs, targets, splits=("val",), batch_size=5)
    found = dict(evaluator.run(built.params))
    assert set(found) == {f"{a}→{b}" for a in (*inputs, "none", "unigram") for b in targets if a != b}

    network = nnx.merge(built.graph, built.params["model"])
    model, embed = Predictor(network), network.embed
    tables = [embed.head(v) for v in embed.targets]
    examples = [e for batch in context.batches("val", 1) for e in [batch] if e["row"][0] >= 0]

    def labels_of(example, name):
        ids = example[name]["ids"][0][example[name]["valid"][0]].astype(int)
        return ids if name == "noto" else np.append(ids, evaluator._sentinel + 1)

    @jax.jit
    def score(given, queries, labels):
        y = model.decode(model.encode(Shown(given, {})), queries).x
        vocab = embed.target_of(jnp.asarray(queries.modality))
        return dense_nll(y, tables, vocab, labels[None], queries.valid).sum()

    def alone(a, b):
        total = count = 0
        for e in examples:
            labels = labels_of(e, b)
            ids = labels if b == "noto" else np.append(evaluator._sentinel, labels[:-1])
            given = e[a]["ids"][0][e[a]["valid"][0]].astype(int)
            total += score(token_set(given, names.index(a)), token_set(ids, names.index(b)), labels)
            count += len(labels)
        return total / count

    for a, b in (("line", "caption"), ("caption", "noto"), ("line", "group")):
        assert found[f"{a}→{b}"] == pytest.approx(float(alone(a, b)), rel=1e-5)

    counts = Counter(t for e in context.batches("train", 1) for t in labels_of(e, "group").tolist())
    size = built.run.modalities[names.index("group")].vocab_size
    held_out = np.concatenate([labels_of(e, "group") for e in examples])
    expected = -np.mean([np.log((counts[t] + 1) / (counts.total() + size)) for t in held_out.tolist()])
    assert found["unigram→group"] == pytest.approx(expected, rel=1e-6)
