"""CLIP and SigLIP as small runs with random parameters, for what reads and writes folders of transformers; the runs of
other configs of towers, smaller still, for tasks."""

import json

import jax
import numpy as np

from configs import clip_b16, siglip_b16
from pretrain import build
from pretrain.evals.base import Context
from pretrain.restore import init_function

CONFIGS = {"clip": clip_b16, "siglip": siglip_b16}


def make_runs() -> dict:
    """{kind: (model config, modalities, objectives, params)} of our small configs, with random parameters."""
    out = {}
    for kind, config in CONFIGS.items():
        run = build.parse(config.get_config("tiny"))
        objectives = build.objectives(run)
        _, init = init_function(build.models(run, objectives), objectives, 0)
        rng = np.random.default_rng(0)
        params = jax.tree.map(lambda s, r=rng: r.normal(size=s.shape).astype(s.dtype), jax.eval_shape(init))
        params["objective"] = jax.tree.map(np.asarray, params["objective"])  # a scalar is no array of NumPy
        out[kind] = build.model_config(run), run.modalities, objectives, params
    return out


def evaluated(c, **changes):
    """(Context, params as they start) of a config whose towers become 16 wide and a layer deep; changes: of keys."""
    for tower in c.model.towers:
        tower.update(dict(dim=16, heads=2, depth=1))
    c.model.embed_dim = 8
    run = build.parse(json.loads(json.dumps(c.to_dict(), default=list)) | changes)
    objectives = build.objectives(run)
    graphs, init = init_function(build.models(run, objectives), objectives, 0)
    return Context(run, graphs, objectives), jax.jit(init)()
