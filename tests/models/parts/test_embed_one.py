"""The embedding of one modality alone: padding that is seen, and the places of the patches of a thinned picture."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from towers import ALL, batch, make, run

from pretrain.models.parts import embed_one
from pretrain.models.parts.base import Build, Numerics
from pretrain.models.passes import Asked
from pretrain.models.tokens import Shown, TokenSet, Whole


def test_with_a_pad_id_padding_is_seen_as_that_token():
    made, data = make("text", pool="last", pad_id=1), batch()
    ids = np.where(data["text"]["valid"], data["text"]["ids"], 1)
    full = {"ids": ids, "valid": np.ones_like(data["text"]["valid"])}
    plain = make("text", pool="last")
    np.testing.assert_allclose(run(made, data, "text")[2], run(plain, data | {"text": full}, "text")[2], atol=1e-6)


def test_a_thinned_picture_keeps_the_places_of_its_patches():
    """Without attention between tokens, some patches alone give what they give among all."""
    made, shown = make("photo", depth=1), Whole(("photo",), ALL)(batch())
    some = Shown(TokenSet(*(field[:, jnp.asarray([1, 3])] for field in shown.tokens)), shown.dense)
    made.t_encoder.blocks.attn.proj.kernel[...] *= 0.0
    encode = jax.jit(lambda made, shown: made.run("t_encoder", made.run("t_embed", shown)).x)
    np.testing.assert_allclose(encode(made, some), encode(made, shown)[:, [1, 3]], atol=1e-5)


def test_rows_that_were_made_elsewhere_are_handed_on():
    data = batch()
    x, valid, pooled = run(make("sound", heads=1, depth=0), data, "sound")
    np.testing.assert_array_equal(x, data["sound"]["vectors"])
    np.testing.assert_allclose(pooled, data["sound"]["vectors"][:, 0], atol=1e-6)
    assert valid.all()


def test_a_learned_token_stands_where_a_patch_is_masked():
    parts = dict(
        plain=embed_one.Config(("photo",), 8, cls=True, positions="none"),
        masks=embed_one.Config(("photo",), 8, cls=True, positions="none", masks=True),
    )
    made = {n: c.make(Build(n, parts, ALL, Numerics()), nnx.Rngs(0)) for n, c in parts.items()}
    shown = Whole(("photo",), ALL)(batch())
    masked = shown._replace(tokens=shown.tokens._replace(ids=shown.tokens.ids.at[:, 2].set(4)))
    whole, some = (made["masks"](given, asked=Asked(None)).x for given in (shown, masked))
    np.testing.assert_array_equal(whole, made["plain"](shown, asked=Asked(None)).x)
    np.testing.assert_array_equal(some[:, [0, 1, 2, 4]], whole[:, [0, 1, 2, 4]])
    np.testing.assert_array_equal(some[:, 3], np.broadcast_to(made["masks"].mask_token[...], (3, 8)))
    grad = nnx.grad(lambda m: jnp.square(m(masked, asked=Asked(None)).x).sum())(made["masks"])
    assert all(np.isfinite(x).all() and np.abs(x).max() > 0 for x in jax.tree.leaves(grad))
    for change in (dict(reads=("text",)), dict(reads=("sound",), raw=True)):
        with pytest.raises(ValueError, match="'x': masks=True: only rows that are projected are masked, pixels or vec"):
            dataclasses.replace(parts["masks"], **change).make(Build("x", parts, ALL, Numerics()), nnx.Rngs(0))
