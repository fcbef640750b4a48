"""GIST's contrast with texts of a class: against an independent NumPy writing, with and without the target of labels;
exact accumulation, any mesh (the target by itself: `test_targets.py`; the texts: `data_pipeline/test_matched.py`)."""

import functools

import jax
import jax.numpy as jnp
import laws
import numpy as np
import pytest
import tiny

from configs.systems import gist
from pretrain import build
from pretrain.models.passes import draw, evaluate
from pretrain.step import Models, example_keys

B, KEYS = 16, example_keys(0, 3, 16)


def config():
    """Both forms side by side."""
    c = gist.get_config("tiny")
    for tower in c.model.towers:
        tower.update(dict(dim=16, heads=2, depth=1))
    c.model.embed_dim, c.batch_size = 8, B
    own = gist.objectives()["contrastive"] | dict(objective="contrastive")
    c.objectives = dict(own=own, labels=own | gist.objectives(labels="species")["contrastive"])
    return c


@functools.cache
def made():
    """(objectives, graphs, parameters that are not trivial, a batch in which classes recur, one has none)."""
    built = laws.Built(config())
    params, batch = tiny.noisy(built.params), built.batch(20)
    batch["species"]["ids"][:, 0] = np.arange(B) % 5
    batch["species"]["valid"][7], batch["image"]["valid"][5] = False, False
    return built.objectives, built.graphs, params, jax.tree.map(jnp.asarray, batch) | {"step": jnp.zeros(B, jnp.int32)}


@functools.cache
def undivided():
    """((loss, (terms, statistics)), gradients) of the whole batch on one device."""
    return laws.gradients(*made(), KEYS)


def test_the_loss_equals_numpy():
    """Trap: other pictures of a class are false negatives of its texts, unless labels say so."""
    objectives, graphs, params, batch = made()
    found = objectives["own"].passes(True)
    nodes = [found["z", n] for n in ("image", "text")]
    run = jax.jit(lambda p, b: list(map(evaluate(nodes, Models(graphs, p), draw(nodes, b, KEYS), KEYS).get, nodes)))
    image, text = (np.float64(z) for z in run(params, batch))
    rows = [i for i in range(B) if i != 5]
    same = lambda i, j: i == j or (i % 5 == j % 5 and 7 not in (i, j))
    (_, (terms, _)), _ = undivided()
    for name in ("own", "labels"):
        scale, loss = float(np.exp(params["objective"][name]["log_scale"])), 0.0
        for a, b in ((image, text), (text, image)):
            for i in rows:
                logits = scale * b[rows] @ a[i]
                log_p = logits - np.log(np.exp(logits - logits.max()).sum()) - logits.max()
                q = np.asarray([same(i, j) if name == "labels" else i == j for j in rows], float)
                loss -= 0.5 * (q / q.sum() * log_p).sum() / len(rows)
        term = terms[f"{name}/image~text"]
        np.testing.assert_allclose(term.total / term.weight, loss, rtol=1e-5, err_msg=name)
    assert abs(terms["own/image~text"].total - terms["labels/image~text"].total) > 1e-2


@pytest.mark.slow
def test_accumulation_changes_nothing():
    laws.same_gradients(laws.gradients(*made(), KEYS, accum=2), undivided(), 2e-5)


@pytest.mark.slow
def test_a_mesh_changes_nothing():
    roles = laws.Built(config()).roles
    laws.same_gradients(laws.gradients(*made(), KEYS, mesh="data=4,fsdp=2", roles=roles), undivided(), 2e-5)


@pytest.mark.parametrize("arg, target", [("", "identity"), ("labels", "labels"), ("tiny", "labels")])
def test_the_target_is_what_the_argument_says(arg, target):
    ((_, one),) = build.objectives(build.parse(gist.get_config(arg))).items()
    assert type(one.target).__module__.endswith(f".{target}")


def test_one_species_in_all_is_named():
    c = gist.get_config("tiny")
    c.labels[0].update(vocab_size=1, classes=["owl"])
    with pytest.raises(
        ValueError, match=r"target.label='species': all examples are of one class: leave the target out"
    ):
        build.objectives(build.parse(c))
