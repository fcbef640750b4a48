"""Dense prediction: a ConvNeXt head on the encoder's outputs of a grid, for segmentation and for depth."""

import dataclasses

import jax
import jax.numpy as jnp

from data_pipeline.spec import Modality
from pretrain.models.passes import Leaf, call
from pretrain.models.tokens import Whole, whole
from pretrain.objectives.base import EXAMPLE, Context
from pretrain.objectives.classification import normalise
from pretrain.parameters import param, undecayed
from pretrain.schedule import Coefficient

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
    coef: Coefficient = 1.0

    scope = EXAMPLE
    reads = "stream"  # the name of the output from which it predicts
    embedded = ()

    def __post_init__(self):
        def fail(key, remedy):
            raise ValueError(f"objectives.dense.{key}={getattr(self, key)!r}: {remedy}")

        specs = {m.name: m for m in self.context.modalities}
        if self.grid not in self.inputs or not specs.get(self.grid) or not specs[self.grid].grid:
            fail("grid", "must be one of objectives.dense.inputs, and a grid or pixels")
        if [n for n in self.inputs if n not in specs or not specs[n].inputs]:
            fail("inputs", f"must be of the network's inputs, {', '.join(n for n, m in specs.items() if m.inputs)}")
        if not self.encoder:
            raise ValueError(
                "objectives.dense: it reads the outputs of an encoder over all inputs: set "
                "config.model.model='models.encdec', or give the towers a trunk"
            )
        maps = {m.name: m for m in self.context.labels if m.pictures}
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
    def encoder(self) -> str:
        """The part of the network that reads the inputs together."""
        return self.context.network.encodes(self.inputs)

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
            "expand": {
                "kernel": normal(self.context.network[self.encoder].dim, self.up**2 * c),
                "bias": zeros(self.up**2 * c),
            },
            "blocks": {
                "depthwise": {"kernel": normal(n, 7, 7, 1, c), "bias": zeros(n, c)},
                "norm": {"scale": undecayed(jnp.ones((n, c))), "bias": zeros(n, c)},
                "fc1": {"kernel": normal(n, c, 4 * c), "bias": zeros(n, 4 * c)},
                "fc2": {"kernel": normal(n, 4 * c, c), "bias": zeros(n, c)},
                "scale": undecayed(jnp.full((n, c), 1e-6)),
            },
            "out": {"kernel": normal(c, self.outputs), "bias": zeros(self.outputs)},
        }

    def passes(self, train: bool) -> dict:
        given = Leaf(Whole(self.inputs, self.context.modalities))
        stream = self.context.network.chain(self.encoder, given)
        if train and self.drop_path:
            stream = call(self.encoder, *stream.args, drop=self.drop_path)
        return {"map": Leaf(Map(self)), self.reads: stream}

    def weights(self, data):
        return dict.fromkeys((self.loss, self._metric), data["map"]["known"].sum().astype(jnp.float32))

    def totals(self, params, outputs, *, train, run):
        y = self.predict(params, outputs[self.reads])
        known, target = outputs["map"]["known"], outputs["map"]["target"]
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

    def predict(self, params, stream):
        """What the encoder gives (`passes`) → logits or metres `[B, H, W, outputs]`, in the size of the map."""
        (rows, columns), up = next(m.grid for m in self.context.modalities if m.name == self.grid), self.up
        x = _linear(params["expand"], on_grid(self, stream.x)).reshape(-1, rows, columns, up, up, self.width)
        x = x.transpose(0, 1, 3, 2, 4, 5).reshape(-1, rows * up, columns * up, self.width)
        x, _ = jax.lax.scan(lambda x, block: (x + _convnext(block, x), None), x, params["blocks"])
        y = _linear(params["out"], x)
        return jax.image.resize(y, (len(y), *self.target.shape[:2], self.outputs), "bilinear")

    def loss_weight(self, name) -> float:
        return float(name == self.loss)

    @property
    def _metric(self):
        return "accuracy" if self.loss == "segmentation" else "delta1"


@dataclasses.dataclass(frozen=True)
class Map:
    """What an objective of this file is trained on: {"target" `[B, H, W]`, class numbers or metres, and where it is
    "known" `[B, H, W]`}."""

    objective: Objective

    def __call__(self, batch, keys) -> dict:
        o = self.objective
        pixels = batch[o.label]["pixels"]
        if o.loss == "segmentation":
            target = pixels[..., 0].astype(jnp.int32)
            known = target != NO_LABEL
        else:
            target = 0.0
            for channel in range(pixels.shape[-1]):
                target = 256.0 * target + pixels[..., channel]
            target, known = target * o.unit, target > 0
        present = batch[o.label]["valid"] & whole(batch, o.grid, o.context.modalities).valid.all(1)
        return {"target": target, "known": known & present[:, None, None]}


def on_grid(objective, x):
    """Of what an encoder gives of an objective's `inputs`, `[B, N, D]`, the tokens of its `grid`."""
    lengths = {n: m.length for n in objective.inputs for m in objective.context.modalities if m.name == n}
    before = x.shape[1] - sum(lengths.values())  # registers and prompts
    before += sum(lengths[n] for n in objective.inputs[: objective.inputs.index(objective.grid)])
    return x[:, before : before + lengths[objective.grid]]


def _linear(params, x):
    return x @ params["kernel"] + params["bias"]


def _convnext(params, x):
    """scale · fc2(gelu(fc1(norm(7 × 7 convolution of each channel)))), x `[B, H, W, C]`."""
    y = jax.lax.conv_general_dilated(
        x, params["depthwise"]["kernel"], (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"),
        feature_group_count=x.shape[-1],
    )  # fmt: skip
    y = normalise(params["norm"], y + params["depthwise"]["bias"])
    return params["scale"] * _linear(params["fc2"], jax.nn.gelu(_linear(params["fc1"], y), approximate=False))
