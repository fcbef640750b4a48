"""Always the same few tokens of a learned tokenizer, each with a learned position; `shape` is (tokens,)."""

import numpy as np

from data_pipeline.kinds import base
from data_pipeline.view import VIEW


class Kind(base.Kind):
    """A field holds the ids of one crop or of several, of which the example's `View` says one."""

    fixed_length = learned_positions = True

    def read(self, m, example, rng, encode):
        crops = example.get(m.field)
        if crops is None:
            return None
        try:
            ids = crops[int(example[VIEW].number * len(crops))]
        except (TypeError, KeyError, IndexError) as e:
            raise base.misfit(m, example, "a list of the ids of one crop or more") from e
        if getattr(ids, "ndim", 0) == 1:
            return ids
        # Ids without crops are those of the only one; a letter of a text, or one of many ids, is no crop.
        alone = np.ndim(ids) == 0 and m.length > 1
        if alone and (isinstance(crops, str) or len(crops) != m.length):
            raise base.misfit(m, example, f"{m.length} ids, or a list of crops of {m.length} ids")
        return np.ravel(crops if alone else ids)
