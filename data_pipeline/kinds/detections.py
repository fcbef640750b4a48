"""What a detector says of every object of a picture, which only objectives read; `shape` is (objects, 2)."""

from data_pipeline.kinds import base, vectors


class Kind(vectors.Kind):
    """A field holds a row an object: its class, a number of 0 … vocab_size − 1, and the confidence, in 0 … 1."""

    lists = ("labels",)

    def check(self, m, fail):
        base.no_range(m, fail)
        if m.shape[1] != 2 or m.vocab_size < 1:
            fail("shape, vocab_size", (m.shape, m.vocab_size), "must be (objects, 2) and the number of classes")

    def read(self, m, example, rng, encode):
        rows = super().read(m, example, rng, encode)
        if rows is not None:
            number, sure = rows.T
            known = (number % 1 == 0) & (number >= 0) & (number < m.vocab_size) & (sure >= 0) & (sure <= 1)
            if not known.all():
                raise base.misfit(m, example, f"rows (class number of 0…{m.vocab_size - 1}, confidence in 0…1)")
        return rows

    def synthetic(self, m, size, rng):
        found = super().synthetic(m, size, rng)
        found["vectors"][..., 0] = rng.integers(m.vocab_size, size=found["valid"].shape)
        found["vectors"][..., 1] = found["valid"]
        return found
