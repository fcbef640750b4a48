"""From a ConfigDict to a frozen run and its objects. The only ml_collections."""

import dataclasses
import functools
import inspect
import json
import os
from typing import Annotated, Any

import ml_collections
import numpy as np

from data_pipeline import kinds, mixture, transforms
from data_pipeline import text_tokenizers as tokenizers
from data_pipeline.pipeline import Encoder, eval_batches
from data_pipeline.shards import in_order
from data_pipeline.spec import Modality, check_modalities
from data_pipeline.text import TextTokenizer
from pretrain.adapt import Rule, Split
from pretrain.data import Data, Part
from pretrain.frozen import Files, cast, from_dict, from_file, load, to_dict
from pretrain.initialize import Load, as_loads
from pretrain.models.image_network import Reader
from pretrain.models.network import Network, describe
from pretrain.models.parts.base import VECTOR
from pretrain.models.passes import ONLINE
from pretrain.models.states import States
from pretrain.objectives.base import Context
from pretrain.optim import Config as OptimConfig
from pretrain.parameters import Roles
from pretrain.references import ema
from pretrain.runtime import parse_window
from pretrain.sharding import parse_mesh
from pretrain.step import AVERAGE
from pretrain.storage import read_config

OBJECTIVES = Files("pretrain.objectives", "Objective", "objective")
REFERENCES = Files("pretrain.references", "Reference", "reference")
EVALUATORS = Files("pretrain.evals", "Evaluator", "evaluator")


@dataclasses.dataclass(frozen=True)
class Checkpoint:
    """Save every `every` steps (0: never) and at the end; keep the last `keep` and the best by `best` (lower wins).

    verify: write the sha256 of a checkpoint's files with it and compare them before it is used.
    """

    every: int = 2000
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

    load: what this run starts from (`initialize.Load`), the later before the earlier; a workdir alone is all of it.
    train: which of the network's parameters are trained, and how (`adapt.Rule`); () for all, but parts with
      frozen=True. Checkpoints hold that part alone.
    ema: momentum of the average that the run is evaluated by; 0 for none.
    models: {name: what differs in it from `model`}: peers of the network, which learn beside it; it alone is evaluated
      and exported.
    references: {name: dict(reference=FILE, …)} of `pretrain/references`: models that objectives may compare with, and
      that no gradient reaches.
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
    load: tuple[Load, ...] = ()
    train: tuple[Rule, ...] = ()
    labels: tuple[Modality, ...] = ()
    ema: float = 0.0
    models: dict = dataclasses.field(default_factory=dict)
    references: dict[str, Annotated[Any, REFERENCES]] = dataclasses.field(default_factory=dict)
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
    if "load" in config:
        config = config | {"load": as_loads(config["load"])}
    run = from_dict(Run, _at_home(config), "config")
    check_modalities((*run.modalities, *run.labels))
    for key in ("modalities", "labels"):
        for m in getattr(run, key):
            if key not in kinds.of(m).lists:
                allowed = ", ".join(name for name in kinds.names() if key in kinds.load(name).lists)
                raise ValueError(f"config.{key}: {m.name!r}: kind={m.kind!r}: must be one of {allowed}")
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
    for key, taken in (("models", (ONLINE, AVERAGE)), ("references", (ONLINE, AVERAGE, *run.models))):
        for name in getattr(run, key):
            if key == "models" and not isinstance(run.models[name], dict):
                raise ValueError(f"config.models.{name}={run.models[name]!r}: give a dict of what differs from model")
            if name in taken:
                raise ValueError(f"config.{key}: {name!r} is what the run itself calls so: choose another name")
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


def whole(config: dict) -> dict:
    """A config, as JSON has it, with every default written out: two that say the same run give the same."""
    run = parse(config)
    made = {name: {"objective": type(o).__module__} | keys_of(o) for name, o in objectives(run).items()}
    return to_dict(run) | {"model": {"model": model_file(run)} | to_dict(model_config(run)), "objectives": made}


def plain(value):
    """Dataclasses, ConfigDicts and tuples as plain dicts and lists, for JSON."""
    if isinstance(value, ml_collections.ConfigDict):
        return value.to_dict()
    if dataclasses.is_dataclass(value):
        return to_dict(value)
    return [plain(v) for v in value] if isinstance(value, (list, tuple)) else value


def from_json(text: str) -> ml_collections.ConfigDict:
    return ml_collections.ConfigDict(json.loads(text))


def objectives(run: Run) -> dict:
    """{name: Objective}; a run's `objectives.NAME.objective` is the file, by default NAME itself."""
    # 4M numbers its sentinels from [S_1]. Its WordPiece vocabulary has them at the same ids.
    context = Context(
        run.modalities, run.labels, tuple(part.name for part in run.data.sources), states(run), other_states(run),
        TextTokenizer.sentinel_start + 1, TextTokenizer.n_sentinels - 1, functools.partial(write, run), variants(run),
        functools.cache(functools.partial(examples, run)),
    )  # fmt: skip
    return {
        name: from_file(values, OBJECTIVES, f"config.objectives.{name}", {Context: context, Reader: read_network}, name)
        for name, values in run.objectives.items()
    }


def variants(run: Run) -> tuple[str, ...]:
    """The entries of a batch that the run's transforms write beside its modalities, such as `text/swapped`."""
    return tuple(name for name, _, variant in transforms.entries(run.data.transforms, run.modalities) if variant)


def keys_of(objective) -> dict:
    """What a config says of an objective, in whole: `objectives` makes the same of it."""
    return to_dict(objective, (Context, Reader))


def read_run(workdir) -> Run:
    """The frozen config that a workdir was trained with."""
    return parse(read_config(workdir))


def read_network(workdir):
    """(make(rngs), modalities) of the network that a workdir trained, of its config alone."""
    run = read_run(workdir)
    return models(run, objectives(run))[ONLINE], run.modalities


def references(run: Run) -> dict:
    """{name: Reference} of what the train state keeps beside what learns, its average among them."""
    average = {AVERAGE: ema.Reference(run.ema)} if run.ema else {}
    return {name: r for name, r in run.references.items() if not r.workdir} | average


def teachers(run: Run) -> dict:
    """{name: Reference} of what others trained."""
    return {name: r for name, r in run.references.items() if r.workdir}


def model_values(run: Run, peer: str = "") -> dict:
    """What `config.model` says, and a peer's own values over it."""
    return run.model | (run.models[peer] if peer else {})


def model_file(run: Run, peer: str = "") -> str:
    """`models.FILE` or `tokenizers.FILE`, the network that the run's config names, or a peer's."""
    return model_values(run, peer).get("model", "models.encdec")


def model_config(run: Run, peer: str = ""):
    """The frozen Config of that network, or of a peer: what composes its parts."""
    where = f"config.models.{peer}" if peer else "config.model"
    values = {key: value for key, value in model_values(run, peer).items() if key != "model"}
    package, _, name = model_file(run, peer).rpartition(".")
    if package not in ("models", "tokenizers"):
        raise ValueError(f"{where}.model={name!r}: write models.FILE or tokenizers.FILE, such as models.encdec")
    module = load(f"pretrain.{package}", name, f"{where}.model", "Config")
    return from_dict(module.Config, values, where)


def states(run: Run, peer: str = "") -> States:
    """What the network of a run, or a peer of it, can do, if objectives ask for it."""
    readable = tuple(m.name for m in run.modalities if m.readable)
    found = describe(model_config(run, peer).compose(run.modalities, readable), run.modalities)
    return dataclasses.replace(found, model=peer or ONLINE)


def other_states(run: Run) -> tuple[States, ...]:
    """What the models beside the network can do: its peers and its references."""
    of_peers = [states(run, name) for name in run.models]
    follow = [dataclasses.replace(states(run), model=name) for name in references(run)]
    return (*of_peers, *follow, *(_teacher_states(run, name, r) for name, r in teachers(run).items()))


def _teacher_states(run: Run, name: str, reference) -> States:
    """What another run's network can do with modalities of this run."""
    where = f"config.references.{name}"
    try:
        theirs = read_run(reference.workdir)
    except (FileNotFoundError, ValueError) as e:
        raise type(e)(f"{where}.workdir={reference.workdir!r}: {e}") from e
    ours, specs = {m.name: m for m in run.modalities}, {m.name: m for m in theirs.modalities}
    reads = {m: reference.reads.get(m, m) for m in specs}
    for key, m in reference.reads.items():
        if key not in specs or m not in ours:
            lacks, has = (f"{reference.workdir} has", specs) if key not in specs else ("this run has", ours)
            raise ValueError(f"{where}.reads={{{key!r}: {m!r}}}: {lacks} the modalities {', '.join(has)}")
    for key, m in ((specs[key], ours[m]) for key, m in reads.items() if m in ours):
        if (key.form, key.shape, key.vocab_size) != (m.form, m.shape, m.vocab_size):
            raise ValueError(
                f"{where}: it reads {key.name!r} as {key.form} of shape={key.shape}, vocab_size={key.vocab_size}; "
                f"this run has {m.name!r} as {m.form} of shape={m.shape}, vocab_size={m.vocab_size}: give the run a "
                "modality such as it reads, and name it in `reads`"
            )
    renamed = tuple((key, m) for key, m in reads.items() if m in ours)
    return dataclasses.replace(states(theirs), model=name, reads=renamed)


def split(run: Run, params, roles: Roles) -> Split:
    """What of a run's parameters (arrays or shapes) is trained and what is its base."""
    frozen = [f"model/{name}/" for name, part in states(run).parts if part.frozen]
    frozen += [f"models/{peer}/{name}/" for peer in run.models for name, part in states(run, peer).parts if part.frozen]
    given = [begin for given in run.load for begin in given.gives(tuple(params["model"]))]
    given += [f"{begin}/" for begin in networks(run)]
    stored = {f"models/{name}/": reference.store for name, reference in teachers(run).items()}
    return Split(run.train, params, roles, frozen=frozen, given=given, stored=stored)


def networks(run: Run) -> dict[str, tuple[str, str]]:
    """{where paths begin: (key of the config, workdir)} of the networks that others trained and that stay as they are:
    teachers, and those by which objectives compare pictures."""
    judges = {name: values["network"]["workdir"] for name, values in run.objectives.items() if values.get("network")}
    return {f"models/{name}": (f"config.references.{name}", r.workdir) for name, r in teachers(run).items()} | {
        f"objective/{name}/network": (f"config.objectives.{name}.network", workdir) for name, workdir in judges.items()
    }


def models(run: Run, objectives: dict) -> dict:
    """{name: make(rngs)} of the networks that the run's config names: `online`, its peers and its teachers."""
    wanted = {e for o in objectives.values() for e in o.embedded}
    embedded = tuple(m.name for m in run.modalities if m.name in wanted)

    def make(config):
        return lambda rngs: Network(config, run.modalities, embedded, rngs)

    made = {ONLINE: make(model_config(run))} | {name: make(model_config(run, name)) for name in run.models}
    return made | {name: read_network(reference.workdir)[0] for name, reference in teachers(run).items()}


def text_tokenizers(run: Run) -> dict:
    """{name of a file of `text_tokenizers` or path of another: its tokenizer}, of all that the modalities need."""
    made = {}
    for m in (m for m in run.modalities if m.text and tokenizers.known(m.tokenizer)):
        foreign = tokenizers.foreign(m.tokenizer)
        if m.tokenizer not in made:
            made[m.tokenizer] = tokenizers.make(m.tokenizer)
        has = made[m.tokenizer].vocab_size
        # Published models often pad their tables beyond the tokenizer's ids.
        if m.vocab_size < has or (m.vocab_size > has and not foreign):
            name = m.tokenizer if foreign else f"the {m.tokenizer} tokenizer"
            raise ValueError(f"modality {m.name!r}: vocab_size={m.vocab_size}, but {name} has {has}")
    return made


def write(run: Run, modality: str, texts) -> dict:
    """The batch entry of texts as a modality's own tokenizer makes them: {"ids", "valid"} `[n, L]`, or {"vectors",
    "valid"} of one that draws. ValueError if it has none."""
    m, known = next((m for m in run.modalities if m.name == modality), None), text_tokenizers(run)
    if m is None or not m.text or m.tokenizer not in known:
        have = ", ".join(m.name for m in run.modalities if m.text and m.tokenizer in known) or "none"
        raise ValueError(f"modality {modality!r}: no tokenizer writes it; texts of the run are {have}")
    how = {"keep_end": True} if modality in pooled_at_end(run) else {}
    made = [known[m.tokenizer].encode(text, m.length, **how) for text in texts]
    return kinds.of(m).pad(m, made, np.arange(len(texts)))


def examples(run: Run, split: str) -> dict:
    """The batch of all examples of a split, in their order, as evaluation has them. ValueError if there is none."""
    found = source(run.data, split)
    if not len(found):
        raise ValueError(f"split={split!r} of {found!r} is empty: fill it")
    return next(eval_batches(found, encoder(run, train=False), batch_size=len(found)))


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
    modalities = (*run.modalities, *run.labels)
    return Encoder(modalities, text_tokenizers(run), train, run.data.transforms, pooled_at_end(run))


def pooled_at_end(run: Run) -> frozenset[str]:
    """The modalities whose towers pool them at their last token: a text must have its end token there."""
    network = states(run)
    return frozenset(m for name, c in network.parts if c.gives == VECTOR and c.at_end for m in network.read_by(name))


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
