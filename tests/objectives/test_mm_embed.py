"""MM-Embed's loss: against an independent NumPy writing, negatives of another modality among it; accumulation, any
mesh; its stages."""

import functools

import jax
import jax.numpy as jnp
import laws
import numpy as np
import pytest
import tiny

from configs import embedder_common as embedder
from configs.common import image, text
from configs.systems import mm_embed
from pretrain import build, ways
from pretrain.models.passes import draw, evaluate
from pretrain.phases import stages
from pretrain.restore import init_function
from pretrain.step import Models, example_keys

B, KEYS = 16, example_keys(0, 3, 16)
FORMS = dict(query="", positive="/positive", first="/negative1", second="/negative2")


def config():
    """The second stage, with the negatives of the corpus in the place of mined ones."""
    c = mm_embed.get_config("tiny")
    size = dict(dim=8, heads=2, depth=1)
    c.modalities = [image(32, 16, field="image"), text(12, field="text")]
    c.model.parts, c.batch_size = embedder.parts(size, size, length=16), B
    c.objectives = mm_embed.objectives(2, temperature=0.5)
    c.data.transforms = [dict(transform="instructed", negatives=2)]
    for part in c.data.sources:
        part["options"]["negatives"] = 2
    return c


@functools.cache
def made():
    """(objectives, graphs, parameters that are not trivial, a batch in which first negatives are of the other kind)."""
    built = laws.Built(config())
    params, batch = tiny.noisy(built.params), built.batch(320)
    batch["text/negative1"], batch["image/negative1"] = (
        jax.tree.map(lambda x: np.roll(x, 5, 0), batch[f"{m}/positive"]) for m in ("text", "image")
    )
    return built.objectives, built.graphs, params, jax.tree.map(jnp.asarray, batch) | {"step": jnp.zeros(B, jnp.int32)}


@functools.cache
def undivided():
    """((loss, (terms, statistics)), gradients) of the whole batch on one device."""
    return laws.gradients(*made(), KEYS)


def test_the_loss_equals_numpy():
    objectives, graphs, params, batch = made()
    found = objectives["contrastive"].passes(True)
    nodes = [found["z", "query"], found["z", "positive"]]
    nodes += [found["target", ("z", f"positive/negative{i}")] for i in (1, 2)]
    run = jax.jit(lambda p, b: list(map(evaluate(nodes, Models(graphs, p), draw(nodes, b, KEYS), KEYS).get, nodes)))
    z = dict(zip(FORMS, map(np.float64, run(params, batch))))
    pictures = {n: np.asarray(batch[f"image{end}"]["valid"]) for n, end in FORMS.items()}
    there = {n: pictures[n] | np.asarray(batch[f"text{end}"]["valid"]).any(1) for n, end in FORMS.items()}
    assert (pictures["first"] != pictures["positive"]).sum() > 4, "negatives of another modality than the positive"
    assert there["positive"].all() and there["first"].all()
    total = 0.0
    for i in range(B):
        own = [z[n][i] for n in ("first", "second") if there[n][i]]
        logits = np.stack([*z["positive"], *own]) @ z["query"][i] / 0.5
        total += np.log(np.exp(logits).sum()) - logits[i]
    np.testing.assert_allclose(undivided()[0][0], total / B, rtol=1e-5)


@pytest.mark.slow
def test_accumulation_changes_nothing():
    laws.same_gradients(laws.gradients(*made(), KEYS, accum=2), undivided(), 2e-5)


@pytest.mark.slow
def test_a_mesh_changes_nothing():
    roles = laws.Built(config()).roles
    laws.same_gradients(laws.gradients(*made(), KEYS, mesh="data=4,fsdp=2", roles=roles), undivided(), 2e-5)


@pytest.mark.parametrize("arg, sizes", [("", [(2148, 1024)]), ("hard", [(4296, 512), (4500, 512)])])
def test_stages_learn_projector_and_low_ranks_from_the_pretrained_model(arg, sizes):
    found = [c for _, c in stages(mm_embed.get_config(arg))]
    assert [(c.steps, c.batch_size) for c in found] == sizes
    run = build.parse(found[0])
    objectives = build.objectives(run)
    init = init_function(build.models(run, objectives), objectives, 0)[1]
    split = build.split(run, jax.eval_shape(init), init.roles)
    learns = {path.split("/")[1] for path, way in split.ways.items() if not isinstance(way, ways.Nothing)}
    assert learns == {"connector", "language"} and "llava" in run.load[0].workdir
    if arg:
        assert "mined" in run.data.sources[0].path and found[1].optim.lr == 2e-5 and len(found[1].data.sources) == 2
