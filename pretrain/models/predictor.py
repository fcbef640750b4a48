"""The part of a network that predicts tokens, for whoever samples, scores or compares them."""

import jax

from pretrain.models.passes import Asked
from pretrain.models.stream import Stream
from pretrain.models.tokens import Shown, TokenSet


class Predictor:
    """The embedding, encoder, decoder and head of a network, as its head reads them. ValueError if it has none."""

    def __init__(self, network, head: str = ""):
        states = network.states
        head = head or states.predicts
        if not head:
            raise ValueError("this model has no decoder: only encoder-decoders (models.encdec) generate")
        (self.decoder,) = states[head].reads
        self.embed, self.encoder = states[self.decoder].reads
        self.network, self.head = network, head

    @property
    def vocabularies(self) -> tuple[str, ...]:
        """Those over which there are logits."""
        return getattr(self.network, self.embed).targets

    def encode(self, shown: Shown) -> Stream:
        return self.network.run(self.encoder, self.network.run(self.embed, shown))

    def decode(self, encoded: Stream, queries: TokenSet) -> Stream:
        return self.network.run(self.decoder, self._start(queries), encoded)

    def nll(self, decoded: Stream, labels):
        """−log p of each label `[B, M]`."""
        return self.network.run(self.head, decoded, labels)

    def logits(self, x, vocab: str) -> jax.Array:
        """Outputs of the decoder `[…, D]` → `[…, V]` over one vocabulary."""
        return getattr(self.network, self.head).logits(x, vocab, Asked(self.network))

    def open_cache(self, encoded: Stream, length: int):
        """What decoding token by token remembers, see `parts.decoder`."""
        return getattr(self.network, self.decoder).open_cache(encoded, length)

    def extend(self, encoded: Stream, token: TokenSet, at, cache):
        """Decodes one token `[B, 1]` at index `at`: (x `[B, 1, D]`, the cache with it)."""
        return getattr(self.network, self.decoder).extend(self._start(token), encoded, at, cache)

    def _start(self, queries: TokenSet) -> Stream:
        return self.network.run(self.embed, Shown(queries, {}), queries=True)
