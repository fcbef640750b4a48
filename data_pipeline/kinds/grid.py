"""Tokens of a learned tokenizer on a 2-D grid, row by row; `shape` is (rows, columns)."""

from data_pipeline.kinds import set as set_of_tokens


class Kind(set_of_tokens.Kind):
    """As a set, but the place of a token is known."""

    rank, learned_positions = 2, False

    def grid(self, m):
        return m.shape
