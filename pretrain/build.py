"""From a ConfigDict to a frozen run and its objects. The only ml_collections."""

import dataclasses
import inspect
import json
import os

import ml_collections
import numpy as np

from data_pipeline import mixture
from data_pipeline.hf_text import HFTokenizer
from data_pipeline.pipeline import Encoder
from data_pipeline.shards import in_order
from data_pipeline.spec import KINDS, Modality, check_modalities
from data_pipeline.text import TextTokenizer
from pretrain.adapt import Rule
from pretrain.data import Data, Part
from pretrain.frozen import Files, cast, from_dict, from_file, load
from pretrain.models.image_network import Reader
from pretrain.objectives.base import Context
from pretrain.optim import Config as OptimConfig
from pretrain.runtime import parse_window
from pretrain.sharding import BATCH, parse_mesh
from pretrain.storage import read_config

OBJECTIVES = Files("pretrain.objectives", "Objective", "objective")
EVALUATORS = Files("pretrain.evals", "Evaluator", "evaluator")


@dataclasses.dataclass(frozen=True)
class Checkpoint:
    """Save every `every` steps (0: never) and at the end; keep the last `keep` and the best by `best` (lower wins).

    verify: write the sha256 of a checkpoint's files with it and compare them before it is used.
    """

    every: int = 1000
    keep: int = 2
    best: str = ""
    verify: bool = True


@dataclasses.dataclass(frozen=True)
class Log:
    """A line, a JSONL row and TensorBoard scalars every `every` steps; `wandb` names a project to log to as well.

    profile: FIRST:LAST, steps whose trace goes into the workdir; "" for none.
    """

    every: int = 50
    tensorboard: bool = True
    wandb: str = ""
    profile: str = ""


@dataclasses.dataclass(frozen=True)
class Run:
    """One whole run. model, objectives, evals are left as dicts: their files say what keys they have.

    init: a workdir whose newest parameters (their moving average, if it has one) this run starts from; "" for none.
    adapt: which part of them is trained, and how (`adapt.Rule`); () for all. Checkpoints hold that part alone.
    labels: what objectives ask for and the network never sees: `labels`, and maps of `pixels`.
    mesh: how devices share the work, see `sharding.parse_mesh`.
    """

    steps: int
    batch_size: int
    modalities: tuple[Modality, ...]
    model: dict
    objectives: dict
    data: Data
    seed: int = 0
    accum: int = 1
    init: str = ""
    adapt: tuple[Rule, ...] = ()
    labels: tuple[Modality, ...] = ()
    ema: float = 0.0
    mesh: str = "ddp"
    optim: OptimConfig = OptimConfig()
    checkpoint: Checkpoint = Checkpoint()
    log: Log = Log()
    evals: dict = dataclasses.field(default_factory=dict)
    final_evals: dict = dataclasses.field(default_factory=dict)


def parse(config: ml_collections.ConfigDict | dict) -> Run:
    """Checks a config and freezes it."""
    config = config.to_dict() if isinstance(config, ml_collections.ConfigDict) else config
    if isinstance(config.get("mesh"), dict):  # workdirs of before hold the sizes as a dict
        config = config | {"mesh": ",".join(f"{axis}={size}" for axis, size in config["mesh"].items())}
    run = from_dict(Run, _at_home(config), "config")
    check_modalities((*run.modalities, *run.labels))
    for key, allowed in (("modalities", set(KINDS) - {"labels"}), ("labels", {"labels", "pixels"})):
        for m in getattr(run, key):
            if m.kind not in allowed:
                raise ValueError(
                    f"config.{key}: {m.name!r}: kind={m.kind!r}: must be one of {', '.join(sorted(allowed))}"
                )
    if run.adapt and not run.init:
        raise ValueError("config.adapt: trains a part beside a base: name the base's workdir in config.init")
    parse_mesh(run.mesh)
    parse_window(run.log.profile)
    for key in ("steps", "batch_size", "accum"):
        if getattr(run, key) < 1:
            raise ValueError(f"config.{key}={getattr(run, key)}: must be at least 1")
    if run.batch_size % run.accum:
        raise ValueError(f"config.batch_size={run.batch_size}: must be divisible by accum={run.accum}")
    if not run.objectives:
        raise ValueError("config.objectives={}: list at least one objective")
    if not 0 <= run.ema < 1:
        raise ValueError(f"config.ema={run.ema}: must be at least 0 (none) and below 1")
    return run


def _at_home(value):
    """A config with `~/` at the beginning of paths written out."""
    if isinstance(value, dict):
        return {key: _at_home(v) for key, v in value.items()}
    if isinstance(value, (list, tuple)):
        return type(value)(_at_home(v) for v in value)
    return os.path.expanduser(value) if isinstance(value, str) and value.startswith("~/") else value


def to_json(config: ml_collections.ConfigDict) -> str:
    """What a workdir keeps of a config; read back by `from_json`."""
    return json.dumps(config.to_dict(), indent=2, sort_keys=True) + "\n"


def plain(value):
    """Dataclasses, ConfigDicts and tuples as plain dicts and lists, for JSON."""
    if isinstance(value, ml_collections.ConfigDict):
        return value.to_dict()
    if dataclasses.is_dataclass(value):
        return dataclasses.asdict(value)
    return [plain(v) for v in value] if isinstance(value, (list, tuple)) else value


def from_json(text: str) -> ml_collections.ConfigDict:
    return ml_collections.ConfigDict(json.loads(text))


def objectives(run: Run) -> dict:
    """{name: Objective}; a run's `objectives.NAME.objective` is the file, by default NAME itself."""
    # 4M numbers its sentinels from [S_1]. Its WordPiece vocabulary has them at the same ids.
    context = Context(
        run.modalities, run.labels, tuple(part.name for part in run.data.sources), model_config(run)[1].states,
        TextTokenizer.sentinel_start + 1, TextTokenizer.n_sentinels - 1,
    )  # fmt: skip
    return {
        name: from_file(values, OBJECTIVES, f"config.objectives.{name}", {Context: context, Reader: read_network}, name)
        for name, values in run.objectives.items()
    }


def read_run(workdir) -> Run:
    """The frozen config that a workdir was trained with."""
    return parse(read_config(workdir))


def read_network(workdir):
    """(make(rngs), modalities) of the network that a workdir trained, of its config alone."""
    run = read_run(workdir)
    return model(run, objectives(run)), run.modalities


def model_config(run: Run):
    """(file, its frozen Config) of the network that the run's config names."""
    values = dict(run.model)
    package, _, name = values.pop("model", "models.encdec").rpartition(".")
    if package not in ("models", "tokenizers"):
        raise ValueError(f"config.model.model={name!r}: write models.FILE or tokenizers.FILE, such as models.encdec")
    module = load(f"pretrain.{package}", name, "config.model.model", "Model")
    return module, from_dict(module.Config, values, "config.model")


def check_frozen(run: Run):
    """ValueError for a tower that would keep its random values."""
    for tower in getattr(model_config(run)[1], "towers", ()):
        if tower.frozen and not tower.load and not run.init:
            raise ValueError(
                f"model.towers: {tower.name!r}: frozen=True, but it would keep its random values: name a workdir in "
                "load or in config.init, or set frozen=False"
            )


def networks(run: Run) -> dict[str, str]:
    """{objective: workdir of the network that it compares pictures by}, whose parameters are its own and fixed."""
    return {name: values["network"]["workdir"] for name, values in run.objectives.items() if values.get("network")}


def tower_loads(run: Run) -> dict[str, str]:
    """{tower: workdir that it starts from}."""
    return {t.name: t.load for t in getattr(model_config(run)[1], "towers", ()) if t.load}


def model(run: Run, objectives: dict):
    """make(rngs), which builds the network that the run's config names."""
    module, config = model_config(run)
    wanted = {e for o in objectives.values() for e in getattr(o, "embedded", ())}
    embedded = tuple(m.name for m in run.modalities if m.name in wanted)
    return lambda rngs: module.Model(config, run.modalities, embedded, rngs)


def text_tokenizers(run: Run) -> dict[str, TextTokenizer | HFTokenizer]:
    """{`text` or the path of a tokenizer.json: its tokenizer}, of all that the modalities need."""
    made = {}
    for m in run.modalities:
        foreign = m.tokenizer.endswith(".json")
        if m.kind != "sequence" or not (foreign or m.tokenizer == "text"):
            continue
        if m.tokenizer not in made:
            made[m.tokenizer] = HFTokenizer(m.tokenizer) if foreign else TextTokenizer()
        has = made[m.tokenizer].vocab_size
        # Published models often pad their tables beyond the tokenizer's ids.
        if m.vocab_size < has or (m.vocab_size > has and not foreign):
            name = m.tokenizer if foreign else "the text tokenizer"
            raise ValueError(f"modality {m.name!r}: vocab_size={m.vocab_size}, but {name} has {has}")
    return made


class Untold(ValueError):
    """A source that does not say which splits it has."""


def splits(data: Data) -> list[str]:
    """The splits that the sources have between them, `train` first and what is evaluated on last; `Untold`."""
    found = set()
    for i, part in enumerate(data.sources or (data,)):
        where = f"config.data.sources[{i}]" if data.sources else "config.data"
        cls = _source_class(part, where)
        if not hasattr(cls, "available"):
            raise Untold(
                f"{where}.source={part.source!r}: it does not say which splits it has: name them, or give it a "
                "function `available`"
            )
        own = cls.available(part.path) if part.path else cls.available()
        found |= {name for name in own if not getattr(part, "splits", ()) or name in part.splits}
    return in_order(found)


def source(data: Data, split):
    """A random-access source of examples; of several, those that take part in the split."""
    if not data.sources:
        return _source(data, split, "config.data")
    wanted = {split} if isinstance(split, str) else set(split)
    opened = {
        i: mixture.Part(_source(part, split, f"config.data.sources[{i}]"), part.modalities, part.fields, i)
        for i, part in enumerate(data.sources)
        if not part.splits or set(part.splits) >= wanted
    }
    if not opened:
        raise ValueError(f"split={split!r}: none of config.data.sources takes part in it; see their `splits`")
    weights = [data.sources[i].weight for i in opened]
    return mixture.Source(opened.values(), weights, data.temperature)


def _source(part: Data | Part, split, where: str):
    cls = _source_class(part, where)
    takes = [name for name in inspect.signature(cls).parameters if name != "split"]
    for key, value in part.options.items():
        if key not in takes or key == "path":
            known = ", ".join(name for name in takes if name != "path") or "no options"
            raise ValueError(f"{where}.options.{key}={value!r}: the source {part.source!r} takes {known}")
    return cls(*[part.path] if part.path else [], split=split, **part.options)


def _source_class(part: Data | Part, where: str):
    cls = load("data_pipeline.sources", part.source, f"{where}.source", "Source").Source
    if not part.path and "path" in inspect.signature(cls).parameters:
        raise ValueError(f"{where}.path='': the source {part.source!r} reads a folder; give its path")
    return cls


def encoder(run: Run, *, train: bool) -> Encoder:
    data = run.data
    crops = {key: getattr(data, key) for key in ("min_scale", "ratio", "flip", "jitter", "randaugment")}
    return Encoder((*run.modalities, *run.labels), text_tokenizers(run), train, **crops, ends=pooled_at_end(run))


def pooled_at_end(run: Run) -> frozenset[str]:
    """The modalities whose towers pool them at their last token: a text must have its end token there."""
    towers = getattr(model_config(run)[1], "towers", ())
    return frozenset(name for t in towers if t.pool == "last" for name in t.modalities)


def evaluators(specs: dict, context, key: str = "evals") -> dict:
    """{name: (every, Evaluator)}; `evals.NAME.evaluator` is a file of pretrain/evals, by default NAME itself.

    key: of the config, whose specs they are.
    """
    # Of any class of a context: evaluators ask for the first of them.
    out, given = {}, dict.fromkeys(type(context).__mro__[:-1], context) | {Reader: read_network}
    for name, values in specs.items():
        where = f"config.{key}.{name}"
        if not isinstance(values, dict):
            raise TypeError(f"{where}={values!r}: expected a dict with the keys of an evaluator")
        values = dict(values)
        every = cast(values.pop("every", 0), int, f"{where}.every")
        if every < 0:
            raise ValueError(f"{where}.every={every}: must be at least 0, which is at the end alone")
        out[name] = every, from_file(values, EVALUATORS, where, given, name)
    return out


def check_batch(run: Run, mesh):
    """The batch must split evenly over the devices that share it, at every microbatch."""
    ways = int(np.prod([mesh.shape[a] for a in BATCH]))
    micro = run.batch_size // run.accum
    if micro % ways:
        raise ValueError(
            f"config.batch_size={run.batch_size}: batch_size / accum = {micro} must be divisible by "
            f"slice × data × fsdp = {ways} of the mesh"
        )
