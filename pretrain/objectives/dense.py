"""Dense prediction: a ConvNeXt head on the encoder's outputs of a grid, for segmentation and for depth."""

import dataclasses

import jax
import jax.numpy as jnp

from data_pipeline.spec import Modality
from pretrain.models.stack import drop_path
from pretrain.models.tokens import concat, dense_rows, whole
from pretrain.objectives.base import Context
from pretrain.objectives.classification import normalise
from pretrain.parameters import param, undecayed

NO_LABEL = 255  # `data_pipeline.image.NO_LABEL`
LOSSES = ("segmentation", "l1", "berhu")


@dataclasses.dataclass(frozen=True)
class Objective:
    """inputs: modalities that are shown whole, `grid` that of them on whose outputs the head stands; label: one of the
    run's labels, a map of `pixels` of any size, cropped as the inputs are, on which each pixel counts the same.

    loss: `segmentation`: cross-entropy of a map of class numbers; 255 has no label. Beside it the `accuracy` of pixels.
    `l1` and `berhu` for depth: |e|, or where that exceeds c = max |e| / 5 of an example (e² + c²) / 2c (arXiv
    1606.00373, section 3.2, where c is a batch's), of e = prediction − target in metres. A depth map's channels are the
    digits of a number to the base 256, times `unit` metres; 0 is unknown. Beside it `delta1`, the share of pixels where
    the larger of prediction and target is below 1.25 times the other (arXiv 1406.2283).
    width, blocks: of the head. It spreads every output over up × up places of `width` channels, runs ConvNeXt blocks
    (arXiv 2201.03545, section 2.6) there, and resizes what a linear layer gives, bilinearly, to the map: MultiMAE's
    ConvNeXt adapter (arXiv 2204.01678, appendix A), which 4M took over. drop_path: as in `classification`.
    """

    context: Context
    inputs: tuple[str, ...]
    grid: str
    label: str
    loss: str = "segmentation"
    unit: float = 0.001
    width: int = 384
    up: int = 4
    blocks: int = 4
    drop_path: float = 0.0
    coef: float = 1.0

    def __post_init__(self):
        def fail(key, remedy):
            raise ValueError(f"objectives.dense.{key}={getattr(self, key)!r}: {remedy}")

        if not self.context.network.dim:
            raise ValueError(
                "objectives.dense: it reads the outputs of an encoder over all inputs: set "
                "config.model.model='models.encdec', or give the towers a trunk"
            )
        specs = {m.name: m for m in self.context.modalities}
        if self.grid not in self.inputs or not specs.get(self.grid) or not specs[self.grid].grid:
            fail("grid", "must be one of objectives.dense.inputs, and a grid or pixels")
        if [n for n in self.inputs if n not in specs or not specs[n].inputs]:
            fail("inputs", f"must be of the network's inputs, {', '.join(n for n, m in specs.items() if m.inputs)}")
        maps = {m.name: m for m in self.context.labels if m.kind == "pixels"}
        if self.label not in maps:
            fail("label", f"no such map among config.labels; there are: {', '.join(maps) or 'none'}")
        if self.loss not in LOSSES:
            fail("loss", f"must be one of {', '.join(LOSSES)}")
        target = maps[self.label]
        if target.resample != "nearest":
            fail("label", "its spec needs resample='nearest': between two classes or depths lies none of them")
        if self.loss == "segmentation" and (target.shape[2] > 1 or not 0 < target.vocab_size <= NO_LABEL):
            fail("label", f"segmentation needs one channel and vocab_size=CLASSES, at most {NO_LABEL}")
        if min(self.width, self.up, self.blocks) < 1 or not self.unit > 0 or not 0 <= self.drop_path < 1:
            fail("width", "width, up, blocks and unit must be positive, and 0 <= drop_path < 1")

    @property
    def target(self) -> Modality:
        return next(m for m in self.context.labels if m.name == self.label)

    @property
    def outputs(self) -> int:
        return self.target.vocab_size if self.loss == "segmentation" else 1

    @property
    def tokens_per_example(self) -> int:
        return sum(m.length for m in self.context.modalities if m.name in self.inputs)

    def init(self, key) -> dict:
        """The head's parameters; blocks are stacked, `[blocks, …]`. ConvNeXt's initialisation, layer scale 1e-6."""
        c, n = self.width, self.blocks
        k = iter(jax.random.split(key, 5))
        normal = lambda *shape: param(0.02 * jax.random.truncated_normal(next(k), -2.0, 2.0, shape))
        zeros = lambda *shape: undecayed(jnp.zeros(shape))
        return {
            "expand": {"kernel": normal(self.context.network.dim, self.up**2 * c), "bias": zeros(self.up**2 * c)},
            "blocks": {
                "depthwise": {"kernel": normal(n, 7, 7, 1, c), "bias": zeros(n, c)},
                "norm": {"scale": undecayed(jnp.ones((n, c))), "bias": zeros(n, c)},
                "fc1": {"kernel": normal(n, c, 4 * c), "bias": zeros(n, 4 * c)},
                "fc2": {"kernel": normal(n, 4 * c, c), "bias": zeros(n, c)},
                "scale": undecayed(jnp.full((n, c), 1e-6)),
            },
            "out": {"kernel": normal(c, self.outputs), "bias": zeros(self.outputs)},
        }

    def view(self, batch, keys):
        """tokens, dense rows, the map `[B, H, W]` (class numbers, or metres) and where it is known."""
        shown = [m for m in self.context.modalities if m.name in self.inputs]
        pixels = batch[self.label]["pixels"]
        if self.loss == "segmentation":
            target = pixels[..., 0].astype(jnp.int32)
            known = target != NO_LABEL
        else:
            target = 0.0
            for channel in range(pixels.shape[-1]):
                target = 256.0 * target + pixels[..., channel]
            target, known = target * self.unit, target > 0
        present = batch[self.label]["valid"] & whole(batch, self.grid, self.context.modalities).valid.all(1)
        return {
            "tokens": concat([whole(batch, name, self.context.modalities) for name in self.inputs]),
            "dense": dense_rows(batch, shown), "target": target, "known": known & present[:, None, None],
        }  # fmt: skip

    def weights(self, view):
        return dict.fromkeys((self.loss, self._metric), view["known"].sum().astype(jnp.float32))

    def totals(self, model, own, view, keys, *, train):
        keep = None
        if train and self.drop_path:
            keep = drop_path(keys, self.drop_path, self.context.network.depth)
        y = self.predict(own, model.encode(view["tokens"], view["dense"], keep=keep))
        known, target = view["known"], view["target"]
        if self.loss == "segmentation":
            at = jnp.where(known, target, 0)[..., None]  # a number beyond the classes reads NaN: the step is skipped
            loss = -jnp.take_along_axis(jax.nn.log_softmax(y), at, axis=-1)[..., 0]
            good = y.argmax(-1) == target
        else:
            y = y[..., 0]
            loss = jnp.where(known, jnp.abs(y - target), 0.0)
            if self.loss == "berhu":
                c = jnp.maximum(jax.lax.stop_gradient(loss.max((1, 2), keepdims=True)) / 5, 1e-6)
                loss = jnp.where(loss <= c, loss, (loss**2 + c**2) / (2 * c))
            good = jnp.maximum(y, target) < 1.25 * jnp.minimum(y, target)
        return {k: jnp.where(known, v, 0.0).sum() for k, v in ((self.loss, loss), (self._metric, good))}

    def predict(self, own, encoded):
        """Encoder output → logits or metres `[B, H, W, outputs]`, in the size of the map."""
        lengths = {n: m.length for n in self.inputs for m in self.context.modalities if m.name == n}
        before = encoded.x.shape[1] - sum(lengths.values())  # registers and prompts
        before += sum(lengths[n] for n in self.inputs[: self.inputs.index(self.grid)])
        (rows, columns), up = next(m.grid for m in self.context.modalities if m.name == self.grid), self.up
        x = encoded.x[:, before : before + rows * columns]
        x = _linear(own["expand"], x).reshape(-1, rows, columns, up, up, self.width)
        x = x.transpose(0, 1, 3, 2, 4, 5).reshape(-1, rows * up, columns * up, self.width)
        x, _ = jax.lax.scan(lambda x, block: (x + _convnext(block, x), None), x, own["blocks"])
        y = _linear(own["out"], x)
        return jax.image.resize(y, (len(y), *self.target.shape[:2], self.outputs), "bilinear")

    def share(self, name) -> float:
        return float(name == self.loss)

    @property
    def _metric(self):
        return "accuracy" if self.loss == "segmentation" else "delta1"


def _linear(own, x):
    return x @ own["kernel"] + own["bias"]


def _convnext(own, x):
    """scale · fc2(gelu(fc1(norm(7 × 7 convolution of each channel)))), x `[B, H, W, C]`."""
    y = jax.lax.conv_general_dilated(
        x, own["depthwise"]["kernel"], (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"),
        feature_group_count=x.shape[-1],
    )  # fmt: skip
    y = normalise(own["norm"], y + own["depthwise"]["bias"])
    return own["scale"] * _linear(own["fc2"], jax.nn.gelu(_linear(own["fc1"], y), approximate=False))
