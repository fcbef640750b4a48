"""Whom a decoder's queries see, and what decoders there are not."""

import numpy as np
import pytest
import tiny
from flax import nnx
from tiny import MODALITIES

from pretrain.models.network import Config, Network
from pretrain.models.parts import decoder, embed, encoder
from pretrain.models.predictor import Predictor
from pretrain.models.tokens import Whole, concat, whole


def test_predictions_of_one_modality_do_not_depend_on_what_else_is_asked():
    model, batch = Predictor(tiny.model()), tiny.batch(3, missing=0.0)
    depth, caption = (whole(batch, n, MODALITIES) for n in ("depth", "caption"))
    encoded = model.encode(Whole(("image",), MODALITIES)(batch))
    together = np.asarray(model.decode(encoded, concat([depth, caption])).x)
    np.testing.assert_allclose(together[:, :6], model.decode(encoded, depth).x, atol=1e-5)
    np.testing.assert_allclose(together[:, 6:], model.decode(encoded, caption).x, atol=1e-5)


@pytest.mark.parametrize(
    "changes, message",
    [
        (dict(registers=1), r"'decoder': registers, adapter, causal=\(1, 0, False\): an encoder has them"),
        (dict(dim=12), "'decoder': dim=12: 'embed', which it reads, gives tokens of width 8"),
    ],
)
def test_what_no_decoder_is(changes, message):
    parts = {
        "embed": embed.Config(dim=8), "encoder": encoder.Config(("embed",), 8, 1, 2),
        "decoder": decoder.Config(("embed", "encoder"), **dict(dim=8, depth=1, heads=2) | changes),
    }  # fmt: skip
    with pytest.raises(ValueError, match=message):
        Network(Config(parts, dtype="float32"), MODALITIES, (), nnx.Rngs(0))
