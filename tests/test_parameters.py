"""Roles: what is made says what is done with it, through stacks, and what is kept of it takes the same role."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from configs import clip_b16, emoji_vqgan, fourm_mod7
from pretrain import build, optim
from pretrain.models import blocks
from pretrain.models.blocks.base import Block
from pretrain.models.stack import make_stack
from pretrain.ops.keys import named
from pretrain.parameters import Role, Roles, mark, param, parts_called, path_str, undecayed, values, variables
from pretrain.restore import init_function


def test_roles_of_a_stack():
    config = blocks.Config(8, 2, mlp_ratio=2.0, gated=True, dtype=jnp.float32)
    made = make_stack(lambda r: Block(config, blocks.ENCODER, rngs=r), 3, nnx.Rngs(0))
    roles = Roles(variables(made))
    assert roles["mlp/fc1/kernel"] == Role(matrix=True, split=-1, stacked=True, depth=3)
    assert roles["mlp/fc2/kernel"] == roles["attn/proj/kernel"] == Role(matrix=True, split=-2, stacked=True, depth=3)
    assert roles["attn/qkv/bias"] == Role(decay=False, split=-1, stacked=True, depth=3)
    assert roles["attn/norm/scale"] == roles["attn/proj/bias"] == Role(decay=False, stacked=True, depth=3)
    graph, state = nnx.split(made)
    merged = nnx.merge(graph, nnx.to_pure_dict(state))
    assert dict(Roles(variables(merged)).items()) == dict(roles.items()), "they survive split and merge"


@pytest.mark.parametrize("moments", optim.MOMENTS)
def test_what_the_optimizer_keeps_takes_the_role_of_its_parameter(moments):
    tree = {
        "model": {"fc1": {"kernel": param(jnp.ones((160, 200)), matrix=True, split=-1)}, "b": undecayed(jnp.ones(3))}
    }
    params, roles = values(tree), Roles(tree)
    state = optim.init(optim.make_optimizer(optim.Config(moments=moments), params, 10, roles), params)
    found = {}
    for path, x in jax.tree_util.tree_leaves_with_path({"params": params, "opt_state": state, "ema": params}):
        path = path_str(path)
        if roles.owner(path):
            found.setdefault((roles.owner(path), x.shape), set()).add(roles.of(path, x.shape))
        else:
            assert x.size < 4, path  # counters and the like
    assert found["model/fc1/kernel", (160, 200)] == {Role(matrix=True, split=-1)}
    assert found["model/b", (3,)] == {Role(decay=False)}
    assert {role for (_, shape), roles in found.items() if shape not in ((160, 200), (3,)) for role in roles} <= {None}


def test_marks_reach_every_parameter():
    tree = {"a": param(jnp.ones(2)), "b": {"c": undecayed(jnp.ones(2))}}
    for leaf in (tree["a"], tree["b"]["c"]):
        mark(leaf, fixed=True)
    assert Roles(tree).still == {"a", "b/c"} and not Roles(tree)["b/c"].decay


def test_names_of_parts_and_towers():
    parts = ("image_embed", "image_encoder", "images_pool", "encoder", "embed")
    assert parts_called("image", parts) == ("image_embed", "image_encoder") and parts_called("embed", parts) == (
        "embed",
    )
    assert parts_called("image_encoder", parts) == ("image_encoder",) and not parts_called("im", parts)


def roles_of(config):
    run = build.parse(config)
    objectives = build.objectives(run)
    return init_function(build.models(run, objectives), objectives, 0)[1].roles


def test_weight_decay_is_that_of_the_published_recipes():
    """Kernels, tables, positions, the mask token and a head's kernel are decayed; norms, biases and scalars are not."""
    for config in (fourm_mod7.get_config("tiny"), clip_b16.get_config("tiny")):
        config.data = dict(source="emoji")
        for path, role in roles_of(config).items():
            last = path.rpartition("/")[2]
            assert role.decay == (last not in ("scale", "bias", "log_scale")), path
    assert roles_of(clip_b16.get_config("tiny"))["objective/contrastive/log_scale"] == Role(decay=False)


def test_what_objectives_own_is_known_too():
    config = emoji_vqgan.get_config("")
    adversarial = {k: v for k, v in config.objectives.adversarial.to_dict().items() if k != "network"}
    config.objectives.adversarial = adversarial | dict(terms=dict(l1=1.0))
    roles = roles_of(config)
    kernels = [p for p, r in roles.items() if p.startswith("objective/adversarial/discriminator/") and r.matrix]
    assert kernels and roles.still == {f"model/autoencoder/quantizer/{n}" for n in ("codebook", "counts")}


def test_keys_of_names():
    key, keys = jax.random.key(1), jax.random.split(jax.random.key(2), 3)
    bits = lambda k: np.asarray(jax.random.key_data(k)).tolist()
    assert bits(named(key, "a", "b")) == bits(named(named(key, "a"), "b")) != bits(named(key, "b", "a"))
    assert bits(named(keys, "a")) == [bits(named(k, "a")) for k in keys]
