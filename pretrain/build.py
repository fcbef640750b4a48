"""From a ConfigDict to frozen dataclasses and objects. The only importlib, the only ml_collections.

An unknown, missing or mistyped key fails here with the key, the value and what was allowed.
"""

import dataclasses
import difflib
import functools
import importlib
import inspect
import json
import os
import pkgutil
import types
import typing

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
from pretrain.models.image_network import ImageNetwork
from pretrain.optim import Config as OptimConfig
from pretrain.runtime import parse_window
from pretrain.sharding import BATCH, parse_mesh
from pretrain.storage import read_config


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


def from_dict(cls, values, where: str, **given):
    """A dataclass from a dict, strictly: `given` fields are not config keys, every other key must be a known field."""
    if not isinstance(values, dict):
        raise TypeError(f"{where}={values!r}: expected a dict with the keys of {cls.__name__}")
    fields = {f.name: f for f in dataclasses.fields(cls) if f.name not in given}
    for key in values:
        if key not in fields:
            close = difflib.get_close_matches(key, fields, 1)
            hint = f"did you mean {close[0]!r}? " if close else ""
            raise ValueError(f"{where}.{key}={values[key]!r}: unknown key; {hint}allowed: {', '.join(fields)}")
    for name, f in fields.items():
        if name not in values and f.default is dataclasses.MISSING and f.default_factory is dataclasses.MISSING:
            raise ValueError(f"{where}.{name}: missing; {cls.__name__} needs it")
    hints = typing.get_type_hints(cls)
    return cls(**{k: _cast(v, hints[k], f"{where}.{k}") for k, v in values.items()}, **given)


def _cast(value, hint, where):
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if origin is types.UnionType and type(None) in args:
        if value is None:
            return None
        (hint,) = (a for a in args if a is not type(None))
        origin, args = typing.get_origin(hint), typing.get_args(hint)
    if dataclasses.is_dataclass(hint):
        return value if isinstance(value, hint) else from_dict(hint, value, where)
    if origin is tuple:
        if not isinstance(value, (list, tuple)):
            raise TypeError(f"{where}={value!r}: expected a list")
        kinds = [args[0]] * len(value) if args[-1] is Ellipsis else args
        if len(kinds) != len(value):
            raise TypeError(f"{where}={value!r}: expected {len(kinds)} values")
        return tuple(_cast(v, k, f"{where}[{i}]") for i, (v, k) in enumerate(zip(value, kinds)))
    if hint is float and type(value) is int:
        return float(value)
    expected = hint if isinstance(hint, (type, types.UnionType)) else object
    if not isinstance(value, expected) or (expected in (int, float) and isinstance(value, bool)):
        raise TypeError(f"{where}={value!r}: expected {getattr(hint, '__name__', hint)}, got {type(value).__name__}")
    return value


def load(package: str, name: str, key: str, holds: str):
    """The class `holds` of the file `package.name`; a typo lists the files that have one."""
    folder = importlib.import_module(package)
    files = [m.name for m in pkgutil.iter_modules(folder.__path__) if m.name not in ("base", "__main__")]
    module = importlib.import_module(f"{package}.{name}") if name in files else None
    if not hasattr(module, holds):
        known = [f for f in files if hasattr(importlib.import_module(f"{package}.{f}"), holds)]
        raise ValueError(f"{key}={name!r}: there is no {package}.{name}; there are: {', '.join(known)}")
    return module


def objectives(run: Run) -> dict:
    """{name: Objective}; a run's `objectives.NAME.objective` is the file, by default NAME itself."""
    return {n: _objective(run, values, n, f"config.objectives.{n}") for n, values in run.objectives.items()}


def _objective(run: Run, values: dict, name: str, where: str):
    values = dict(values)
    file = values.pop("objective", name)
    cls = load("pretrain.objectives", file, f"{where}.objective", "Objective").Objective
    fields = {f.name for f in dataclasses.fields(cls)}
    if "modalities" not in fields:
        raise TypeError(f"pretrain/objectives/{file}.py: Objective needs a field `modalities`")
    given = {"modalities": run.modalities}
    if "sentinel" in fields:
        # 4M numbers its sentinels from [S_1]. Its WordPiece vocabulary has them at the same ids.
        given |= {"sentinel": TextTokenizer.sentinel_start + 1, "n_sentinels": TextTokenizer.n_sentinels - 1}
    if "sources" in fields:
        given["sources"] = tuple(part.name for part in run.data.sources)
    if "embed_dim" in fields:
        given["embed_dim"] = model_config(run)[1].embed_dim
    if "labels" in fields:  # it has a head on the trunk's outputs
        if not hasattr(model_config(run)[1], "dim"):
            raise ValueError(f"{where}: reads the trunk's outputs; set config.model.model='models.encdec'")
        given |= {"labels": run.labels, "dim": model_config(run)[1].dim}
    if "probes" in fields:
        given["probes"] = model_config(run)[1].probes
    if values.get("network"):
        given["network"] = image_network(values.pop("network"), f"{where}.network")
    if "base" in fields:  # an objective around another
        given["base"] = _objective(run, values.pop("base", {}), "", f"{where}.base")
    return from_dict(cls, values, where, **given)


def read_run(workdir) -> Run:
    """The frozen config that a workdir was trained with."""
    return parse(read_config(workdir))


def image_network(values: dict, where: str) -> ImageNetwork:
    """The network of another workdir, for an objective or an evaluator with a key `network`."""

    def read(workdir):
        try:
            run = read_run(workdir)
        except FileNotFoundError as e:
            raise FileNotFoundError(f"{where}.workdir={workdir!r}: {e}") from e
        return model(run, objectives(run)), run.modalities

    return from_dict(ImageNetwork, values, where, read=read)


def model_config(run: Run):
    """(file, its frozen Config) of the network that the run's config names."""
    values = dict(run.model)
    package, _, name = values.pop("model", "models.encdec").rpartition(".")
    if package not in ("models", "tokenizers"):
        raise ValueError(f"config.model.model={name!r}: write models.FILE or tokenizers.FILE, such as models.encdec")
    module = load(f"pretrain.{package}", name, "config.model.model", "Model")
    parts = getattr(module, "PARTS", {})
    given = {
        k: _part(values.pop(k, {}), f"config.model.{k}", f"pretrain.{package}.{parts[k][0]}", *parts[k][1:])
        for k in parts
    }
    return module, from_dict(module.Config, values, "config.model", **given)


def _part(values: dict, where: str, package: str, key: str, holds: str):
    """What makes a part of a network: the class `holds` of the file `values[key]`, its Config given."""
    if not isinstance(values, dict):
        raise TypeError(f"{where}={values!r}: expected a dict such as dict({key}=FILE)")
    module = load(package, values.get(key, ""), f"{where}.{key}", holds)
    config = from_dict(module.Config, {k: v for k, v in values.items() if k != key}, where)
    return functools.partial(getattr(module, holds), config)


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
    out = {}
    for name, values in specs.items():
        where = f"config.{key}.{name}"
        if not isinstance(values, dict):
            raise TypeError(f"{where}={values!r}: expected a dict with the keys of an evaluator")
        values = dict(values)
        every = _cast(values.pop("every", 0), int, f"{where}.every")
        if every < 0:
            raise ValueError(f"{where}.every={every}: must be at least 0, which is at the end alone")
        file = _cast(values.pop("evaluator", name), str, f"{where}.evaluator")
        module = load("pretrain.evals", file, f"{where}.evaluator", "Evaluator")
        given = {"context": context}
        if values.get("network"):
            given["network"] = image_network(values.pop("network"), f"{where}.network")
        out[name] = (every, from_dict(module.Evaluator, values, where, **given))
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
