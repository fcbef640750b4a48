"""What a target is. Those of a file say what they differ in."""

import dataclasses

from pretrain.ops.pairs import Candidates


@dataclasses.dataclass(frozen=True)
class Target:
    """A callable value of its config keys alone: under a `block` it sees some rows at a time.

    An edge joins modalities a and b; each is the rows once and the columns once, and the target is asked for either.
    """

    embeddings = False  # whether it compares embeddings as the objective does: of others it would not know the score

    def check(self, objective):
        """ValueError for keys that do not fit the run; it names them by `objective.where`."""

    def passes(self, objective, train: bool) -> dict:
        """{name: node} of what it reads beside the embeddings that the objective compares."""
        return {}

    def sides(self, objective, outputs: dict, edge, present) -> tuple:
        """What it reads of a and what of b: trees of arrays `[B, …]`, without gradient unless one is meant.

        outputs: of the objective's `passes`, these among them; present: which examples have both, bool `[B]`.
        """
        return (), ()

    def __call__(self, candidates: Candidates, scale, rows, columns) -> Candidates:
        """The candidates of some rows, with other weights, fewer counted, or further ones behind them.

        scale: what similarities are multiplied by. rows: what `sides` gave, of these rows; columns: of all of the other
        side. Zeros stand where an example is absent.
        """
        return candidates
