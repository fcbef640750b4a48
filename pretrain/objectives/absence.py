"""The corruption that takes whole modalities from examples, so that a network learns to do without them."""

import dataclasses

import jax

from data_pipeline.spec import Modality
from pretrain.models.tokens import Shown, Whole
from pretrain.ops.keys import named


@dataclasses.dataclass(frozen=True)
class Absent:
    """All tokens of modalities, of which each is taken from an example with probability `rate`, by itself → Shown.

    What is drawn knows nothing of the example: where data lack a modality more often under one label they still do, but
    it is absent under every label.
    whole_batch: a modality that one example of the batch lacks is taken from all, as in MultiModN's release
    (arXiv 2309.14118). Corruptions see the undivided batch: accumulation changes nothing.
    """

    names: tuple[str, ...]
    rate: float
    whole_batch: bool
    modalities: tuple[Modality, ...]

    def __call__(self, batch, keys) -> Shown:
        shown = Whole(self.names, self.modalities)(batch)
        tokens, valid, index = shown.tokens, shown.tokens.valid, [m.name for m in self.modalities]
        for name in self.names:
            mine = tokens.modality == index.index(name)
            kept = jax.vmap(lambda key: jax.random.uniform(key) >= self.rate)(named(keys, "absent", name))
            if self.whole_batch:
                kept &= (tokens.valid & mine).any(1).all()
            valid &= ~mine | kept[:, None]
        return Shown(tokens._replace(valid=valid), shown.dense)
