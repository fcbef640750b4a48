"""A network that another run trained, as a fixed function of pictures: what it sees of two of them compares them."""

import dataclasses
import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
from flax import nnx

from pretrain.models.passes import Leaf, compute
from pretrain.models.stream import unit
from pretrain.models.tokens import Whole
from pretrain.parameters import mark, variables

# workdir → (make(rngs), modalities) of the network that was trained there.
Reader = Callable[[str], tuple]


@dataclasses.dataclass(frozen=True)
class ImageNetwork:
    """workdir: where it was trained, or where `tools.convert` put it: a CLIP or SigLIP folder, a 4M checkpoint.

    modality: which of its `pixels`; "" if it reads but one.
    layers: the blocks whose outputs compare two pictures, 0 the first, −1 the last.
    read: workdir → (make(rngs), modalities) of its network, of its config alone.

    Its methods take the parameters of that network as they are in its own run. Pictures are float `[B, H, W, C]` in
    0…255, of any size: they are resized to what it reads, and grey ones become colours.
    """

    read: Reader
    workdir: str
    modality: str = ""
    layers: tuple[int, ...] = (-1,)

    def fresh(self, key) -> dict:
        """Parameters as they start out, which will never learn: the shapes of those of the workdir."""
        return variables(mark(self._opened[0](nnx.Rngs(key)), fixed=True))

    def check(self, channels: int):
        """ValueError if it cannot compare pictures of so many channels, before anything is computed."""
        own = self._spec.shape[2]
        if channels not in (1, own):
            self._fail("modality", f"it has {own} channels, the pictures {channels}; name another")

    def pooled(self, params, pictures):
        """What it says of each picture as a whole, `[B, P]`."""
        model, batch = self._take(params, pictures)
        node = model.states.pooled(self._spec.name, Leaf(Whole((self._spec.name,), model.modalities)))
        return compute(model, {"pooled": node}, batch)["pooled"]

    def distance(self, params, a, b):
        """The mean over places and layers of ‖u(a) − u(b)‖², u what a layer says of a place, at unit length: `[B]`.

        LPIPS with its learned weights all 1 (arXiv 1801.03924, section 3), but the mean over layers, not their sum.
        """
        a, b = self._features(params, a), self._features(params, b)
        return sum(jnp.square(x - y).sum(-1).mean(1) for x, y in zip(a, b)) / len(a)

    def _features(self, params, pictures) -> list:
        """Of each of `layers`, `[B, N, D]` of unit length."""
        layers = blocks(*self._take(params, pictures), (self._spec.name,))[0]
        for i in self.layers:
            if not -layers.shape[1] <= i < layers.shape[1]:
                self._fail("layers", f"that network has blocks 0 … {layers.shape[1] - 1}")
        return [unit(layers[:, i].astype(jnp.float32)) for i in self.layers]

    def _take(self, params, pictures):
        """(the network, a batch of the pictures)."""
        _, graph, _ = self._opened
        m, (height, width, channels) = self._spec, self._spec.shape
        if pictures.shape[-1] != channels:
            pictures = pictures.repeat(channels, -1)
        if pictures.shape[1:3] != (height, width):
            pictures = jax.image.resize(pictures, (len(pictures), height, width, channels), "cubic")
        batch = {m.name: {"pixels": pictures, "valid": jnp.ones(len(pictures), bool)}}
        return nnx.merge(graph, params), batch

    @functools.cached_property
    def _opened(self):
        """(make, graph, modalities)."""
        try:
            make, modalities = self.read(self.workdir)
        except FileNotFoundError as e:
            raise FileNotFoundError(f"network.workdir={self.workdir!r}: {e}") from e
        return make, nnx.split(nnx.eval_shape(lambda: make(nnx.Rngs(0))))[0], modalities

    @functools.cached_property
    def _spec(self):
        """The modality that it reads."""
        make, _, modalities = self._opened
        network = nnx.eval_shape(lambda: make(nnx.Rngs(0))).states
        if not network.pooled_modalities:
            self._fail("workdir", "no transformer over pictures was trained there: name towers or an encoder-decoder")
        found = {m.name: m for m in modalities if m.pictures and m.readable and m.inputs}
        found = {n: m for n, m in found.items() if n in network.pooled_modalities}
        if not found:
            self._fail("workdir", "that network reads no pixels: name one that does")
        if (not self.modality and len(found) > 1) or (self.modality and self.modality not in found):
            self._fail("modality", f"must be one of {', '.join(found)}")
        return found[self.modality or next(iter(found))]

    def _fail(self, key, remedy):
        where = "" if key == "workdir" else f" (network.workdir={self.workdir!r})"
        raise ValueError(f"network.{key}={getattr(self, key)!r}: {remedy}{where}")


def blocks(network, batch, names):
    """What every block gave of modalities side by side, `[B, depth, N, D]`, and which tokens count `[B, N]`.

    ValueError if no encoder reads them together.
    """
    node = network.states.side_by_side(tuple(names))
    if node is None:
        raise ValueError(f"{'+'.join(names)}: towers have no layers in common; name one modality")
    stream = compute(network, {"stream": node}, batch, layers=(node,))["stream"]
    return stream.x[:, None] if stream.layers is None else stream.layers, stream.counted
