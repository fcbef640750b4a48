"""Writes the config of a run on what was found in a folder, in sizes that suit it and the machine."""

import dataclasses
import math
import shlex
from pathlib import Path

from tools.start.folder import LABEL
from tools.start.look import Found

OBJECTIVES = ("contrastive", "masked", "both")
# (least examples, width, depth, side of pictures, of patches, batch, epochs): more examples feed more parameters.
SIZES = (
    (0, 128, 4, 64, 8, 64, 60),
    (10_000, 256, 6, 128, 16, 256, 40),
    (200_000, 512, 12, 224, 16, 1024, 32),
)
LONGEST = 2000  # steps that a run on a CPU is given: minutes, not days


@dataclasses.dataclass(frozen=True)
class Choice:
    """What the config of a folder is made of. text_vocab: of the tokenizer `tokenizer`; length: tokens of a text."""

    objective: str
    picture: str
    text: str
    side: int
    patch: int
    channels: int
    length: int
    tokenizer: str
    text_vocab: int
    width: int
    depth: int
    batch: int
    steps: int
    warmup: int
    every: int
    dtype: str


def choose(found: Found, objective: str, tokenizer: str, text_vocab: int, length: int, on_cpu: bool) -> Choice:
    """ValueError if pictures or texts are not there."""
    picture, text = found.pair()
    examples = next(iter(found.splits.values()))
    sizes = SIZES[:1] if on_cpu else SIZES
    _, width, depth, side, patch, batch, epochs = [s for s in sizes if examples >= s[0]][-1]
    side = max(4 * patch, min(side, picture.side // patch * patch))
    batch = max(2, min(batch, examples // 2))
    steps = max(200, min(epochs * examples // batch, LONGEST if on_cpu else 10**9))
    return Choice(
        objective, picture.name, text.name, side, patch, 3 if picture.channels > 1 else 1, length, tokenizer,
        text_vocab, width, depth, batch, steps, warmup=max(10, steps // 20), every=max(50, steps // 4),
        dtype="float32" if on_cpu else "bfloat16",
    )  # fmt: skip


def text_length(lengths) -> int:
    """Room for nearly all texts of these lengths in tokens: a multiple of 8."""
    lengths = sorted(lengths)
    return min(256, 8 * math.ceil((lengths[math.ceil(0.99 * len(lengths)) - 1]) / 8))


def commands(file: Path, found: Found, choice: Choice) -> list[str]:
    """What to run, in order."""
    run, name, path = f"runs/{file.stem}", shlex.quote(str(file)), shlex.quote(found.path)
    train = [f"python -m pretrain --config={name} --workdir={run}"]
    after = [f"python -m pretrain.evals --checkpoint={run}"]
    if choice.objective == "contrastive":
        return train + after + [f"python -m tools.convert --workdir={run} --write={run}/for_transformers"]
    before = [
        f"python -m pretrain --config={name}:tokenizer --workdir={run}_tokenizer",
        f"python -m tools.tokenize --source={found.source} --path={path} --tokenizers=picture={run}_tokenizer "
        f"--out={run}_tokens --crops=3",
    ]
    return before + train + after + [f"python -m tools.export --workdir={run} --out={run}/for_pytorch"]


def write(file: Path, found: Found, choice: Choice) -> str:
    """The text of the config."""
    parts = _towers if choice.objective == "contrastive" else _trunk
    held = tuple(split for split in found.splits if split != "train")
    head = _HEAD.format(path=found.path, commands="\n".join(f"    {c}" for c in commands(file, found, choice)))
    return head + parts(file, found, choice, held)


def _evals(choice: Choice, found: Found, held) -> str:
    """The lines of a config that say when it is judged, and how."""
    if not held:
        only = next(iter(found.splits))
        return (
            "    # No split is held out: what is said of the training data says little of new ones.\n"
            f'    c.final_evals = dict(retrieval=dict(pairs=[("image", "text")], splits=("{only}",)))\n'
        )
    batch = min(64, found.splits[held[0]])
    losses = f'    c.evals = dict({held[0]}=dict(evaluator="losses", batch_size={batch}, every={choice.every}))\n'
    if choice.text == LABEL:  # many pictures share a text: none of them is the one to find
        return (
            "    # The loss of examples that are held out, and how many get their class: by the nearest text, and\n"
            "    # by the nearest training pictures.\n"
            f"{losses}"
            "    c.final_evals = dict(\n"
            f'        zero_shot=dict(text="text", modalities=["image"], labels=["{LABEL}"], splits={held!r}),\n'
            f'        knn=dict(modalities=["image"], labels=["{LABEL}"], splits={held!r}),\n'
            "    )  # fmt: skip\n"
        )
    return (
        "    # The loss of examples that are held out, and how well a picture finds its text among them.\n"
        f"{losses}"
        f'    c.final_evals = dict(retrieval=dict(pairs=[("image", "text")], splits={held!r}))\n'
    )


def _seen(found: Found, c: Choice) -> dict:
    examples = next(iter(found.splits.values()))
    return dict(examples=examples, times=max(1, round(c.steps * c.batch / examples)))


def _towers(file, found, c: Choice, held) -> str:
    return _TOWERS.format(
        **dataclasses.asdict(c), source=found.source, path=found.path, evals=_evals(c, found, held),
        train=next(iter(found.splits)), **_seen(found, c), mean=(0.5,) * c.channels,
        heads=c.width // 32,
    )  # fmt: skip


def _trunk(file, found, c: Choice, held) -> str:
    tokens = (c.side // c.patch) ** 2
    contrastive = (
        "    # A picture and its text are near one another, and far from others.\n"
        f'    c.objectives.contrastive = dict(coef=0.5, grid_tokens={tokens // 4}, edges=[dict(a="image", b="text")])\n'
    )
    evals = _evals(c, found, held)
    if c.objective == "masked":
        evals = evals.replace(
            'retrieval=dict(pairs=[("image", "text")]', 'nll=dict(inputs=["image", "text"], targets=["image", "text"]'
        ).replace("how well a picture finds its text among them", "how well each is told from the other")
    return _TRUNK.format(
        **dataclasses.asdict(c), source=found.source, path=found.path, evals=evals,
        train=next(iter(found.splits)), **_seen(found, c), grid=c.side // c.patch,
        run=f"runs/{file.stem}", contrastive=contrastive if c.objective == "both" else "",
        inputs=(tokens + c.length) // 4, targets=(tokens + c.length) // 2, half=c.depth // 2, heads=c.width // 32,
        tokenizer_steps=min(c.steps, 700),
    )  # fmt: skip


_HEAD = '''"""A run on {path}, written by `python -m tools.start`: every number is yours to change.

{commands}
"""

from ml_collections import ConfigDict

'''

_TOWERS = """
def get_config():
    c = ConfigDict()
    # {examples} examples are for training: each is seen about {times} times.
    c.steps, c.batch_size = {steps}, {batch}
    c.data = dict(
        source="{source}",
        path={path!r},
        train="{train}",
        transforms=[dict(transform="crop", min_scale=0.5)],  # what is shown of a picture: at least half of its area
    )
    c.modalities = [
        # A picture is resized to `shape` and cut into patches of {patch} x {patch} pixels.
        dict(
            name="image", kind="pixels", field={picture!r}, shape=({side}, {side}, {channels}), patch={patch},
            mean={mean}, std={mean}, targets=False,
        ),
        # Up to {length} tokens of a text; of several, training draws one.
        dict(
            name="text", kind="sequence", field={text!r}, shape=({length},), tokenizer={tokenizer!r}, vocab="text",
            vocab_size={text_vocab}, targets=False,
        ),
    ]  # fmt: skip
    # One transformer for pictures and one for texts, as in CLIP, whose outputs meet in one space of {width} numbers.
    tower = dict(dim={width}, heads={heads}, depth={depth}, activation="quick_gelu", eps=1e-5)
    c.model = dict(
        model="models.multimodal", embed_dim={width}, dtype="{dtype}",
        towers=[
            dict(name="image", modalities=("image",), pool="cls", pre_norm=True, patch_bias=False, **tower),
            dict(name="text", modalities=("text",), pool="last", causal=True, **tower),
        ],
    )  # fmt: skip
    c.objectives = dict(contrastive=dict(edges=[dict(a="image", b="text")]))
    c.optim = dict(lr=1e-3, warmup={warmup}, weight_decay=0.2, b2=0.98, eps=1e-6)
    c.checkpoint = dict(every={every})
    c.log = dict(every=10)
{evals}    return c
"""

_TRUNK = '''
def tokenizer():
    """Turns patches of pictures into one of 1024 codes, and codes into pictures again."""
    c = ConfigDict()
    c.steps, c.batch_size = {tokenizer_steps}, 8
    c.data = dict(source="{source}", path={path!r}, train="{train}")
    c.modalities = [dict(name="image", kind="pixels", field={picture!r}, shape=({side}, {side}, {channels}))]
    c.model = dict(
        model="tokenizers.autoencoder", fixed_encoder=True, dtype="{dtype}",
        encoder=dict(network="patches", patch={patch}, dim=128, mlps=0),
        quantizer=dict(quantizer="vq", size=1024, width=64, cosine=False, decay=0.999, kmeans=60_000),
        decoder=dict(network="patches", patch={patch}, overlap=2, dim=128, mlps=1, blocks=1, heads=2),
    )  # fmt: skip
    c.objectives = dict(reconstruction=dict(terms=dict(l1=1.0, l2=1.0)))
    c.optim = dict(lr=4e-3, warmup=50, b2=0.99, weight_decay=0.0, clip=1.0, moments="muon")
    c.ema = 0.99
    c.checkpoint = dict(every=100, keep=1)
    c.log = dict(every=10)
    return c


def get_config(arg=""):
    if arg == "tokenizer":
        return tokenizer()
    c = ConfigDict()
    # {examples} examples are for training: each is seen about {times} times.
    c.steps, c.batch_size = {steps}, {batch}
    c.data = dict(source="tokens", path="{run}_tokens", train="{train}")
    c.modalities = [
        # {grid} x {grid} codes of the tokenizer above; what looks alike starts alike.
        dict(
            name="image", kind="grid", field="image", shape=({grid}, {grid}), tokenizer="picture", vocab="picture",
            vocab_size=1024, code_std=0.3,
        ),
        # Up to {length} tokens of a text; of several, training draws one.
        dict(
            name="text", kind="sequence", field={text!r}, shape=({length},), tokenizer={tokenizer!r}, vocab="text",
            vocab_size={text_vocab},
        ),
    ]  # fmt: skip
    # An encoder that reads what is shown, a decoder that is asked for what is hidden.
    c.model = dict(
        dim={width}, heads={heads}, encoder_depth={half}, decoder_depth={half}, embed_dim={width}, table_std=0.1,
        dtype="{dtype}",
    )  # fmt: skip
    # Of every example up to {inputs} tokens are shown and up to {targets} others asked for.
    names = ["image", "text"]
    c.objectives = dict(
        masked=dict(
            loss="token_mean", input_tokens=(8, {inputs}), target_tokens=({targets}, {targets}),
            mixture=[
                dict(inputs=dict.fromkeys(names, 0.5), targets=dict.fromkeys(names, 0.5)),
                dict(inputs=dict(text=1.0), targets=dict(image=1.0)),
                dict(inputs=dict(image=1.0), targets=dict(text=1.0)),
            ],
        )
    )  # fmt: skip
{contrastive}    c.optim = dict(lr=1e-3, warmup={warmup}, weight_decay=0.05, clip=1.0)
    c.checkpoint = dict(every={every})
    c.log = dict(every=10)
{evals}    return c
'''
