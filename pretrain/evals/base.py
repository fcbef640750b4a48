"""What a task of the transfer harness is, and what it is given: the same object also runs during training."""

import dataclasses
import functools
from collections.abc import Iterator
from typing import Any, ClassVar, Protocol

import numpy as np

from data_pipeline import mixture
from data_pipeline.checks import check_fields
from data_pipeline.pipeline import eval_batches
from data_pipeline.sources.tokens import read_manifest
from pretrain import build, runtime
from pretrain.data import token_stores
from pretrain.models.passes import ONLINE
from pretrain.models.states import States
from pretrain.restore import load_tokenizer
from pretrain.storage import locate

SPLITS = ("split", "splits", "train", "validation", "bank")  # keys of evaluators that name splits of the run's data

NAMES = ("modalities", "text", "inputs", "targets", "pairs")  # and such that name modalities


class Score(float):
    """A value beside `chance`, what guessing would give, and `raw`, what pixels or tokens give without a network; None
    where there is no such number."""

    def __new__(cls, value, chance: float | None = None, raw: float | None = None):
        self = super().__new__(cls, value)
        self.chance = None if chance is None else float(chance)
        self.raw = None if raw is None else float(raw)
        return self


class Unfit(ValueError):
    """A task that a run's modalities or data do not allow; the message is the reason."""


class Evaluator(Protocol):
    """A frozen dataclass `Evaluator` in a file of its own; its fields are its config keys, `context` is given.

    It may have more, as a `Task` does: `default(context)` → config keys, or `Unfit`; `check()` reads the data that it
    needs and raises before anything is computed; `figures(params)` → (title, matplotlib figure) for the page.
    """

    def run(self, params) -> Iterator[tuple[str, float]]:
        """Yields (name, value); a value may be a `Score`. params: {"model": …, "objective": …}."""


@dataclasses.dataclass(frozen=True, eq=False)
class Context:
    """The run that is evaluated: its config, the graphs of its models and the objectives."""

    run: build.Run
    graphs: dict
    objectives: dict

    @property
    def graph(self):
        """Of the network that is evaluated."""
        return self.graphs[ONLINE]

    @property
    def modalities(self):
        return self.run.modalities

    @functools.cached_property
    def embedded(self) -> tuple[str, ...]:
        """Modalities with an embedding in the common space, in the run's order."""
        wanted = {name for o in self.objectives.values() for name in o.embedded}
        return tuple(m.name for m in self.modalities if m.name in wanted)

    @functools.cached_property
    def readable(self) -> tuple[str, ...]:
        """Modalities that the network takes in: those of which it makes a vector, and if it has a trunk all inputs."""
        inputs, alone = [m for m in self.modalities if m.inputs and m.readable], self.network.pooled_modalities
        return tuple(m.name for m in inputs if self.network.encodes((m.name,)) or m.name in (*self.embedded, *alone))

    @functools.cached_property
    def network(self) -> States:
        """What the network can do."""
        return build.states(self.run)

    @functools.cached_property
    def tokenizers(self) -> dict:
        """{name: Tokenizer} of the token stores. ValueError where one has changed since, or is not there."""
        made, stores = {}, [part.path for _, part in token_stores(self.run.data)]
        for name, about, store in [(n, a, s) for s in stores for n, a in read_manifest(s)["tokenizers"].items()]:
            if name in made:
                continue
            if not (locate(about["workdir"]) / "config.json").exists():
                raise FileNotFoundError(
                    f"tokenizer {name!r}: {about['workdir']} is no workdir: bring back the one that {store} was "
                    "made with, or start where it is found"
                )
            tokenizer = load_tokenizer(about["workdir"])
            if tokenizer.digest != about["digest"]:
                raise ValueError(f"{about['workdir']} has changed since the tokens were made: run tools.tokenize again")
            made[name] = tokenizer
        return made

    def source(self, splits):
        """The examples of a split, or of several splits those of the ones that the data have; opened once."""
        key = splits if isinstance(splits, str) else self.there(splits)
        if key not in self._sources:
            found = build.source(self.run.data, key)
            if not len(found):
                raise ValueError(f"split={splits!r} of {found!r} is empty: name a split that holds examples")
            self._sources[key] = found
        return self._sources[key]

    def there(self, splits) -> tuple[str, ...]:
        """Those of several splits that the data have, all if they have none; says once which they lack."""
        splits = (splits,) if isinstance(splits, str) else tuple(splits)
        if splits not in self._there:
            found = splits if len(splits) == 1 else tuple(s for s in splits if self._has(s)) or splits
            if lacking := [split for split in splits if split not in found]:
                runtime.say(f"the data have no split {', '.join(lacking)}: evaluated on {', '.join(found)} alone")
            self._there[splits] = found
        return self._there[splits]

    @functools.cached_property
    def _sources(self):
        return {}

    @functools.cached_property
    def _there(self):
        return {}

    def batches(self, split, batch_size: int):
        """Every example of a split once, in the deterministic form; batches are filled up with row -1."""
        return eval_batches(self.source(split), build.encoder(self.run, train=False), batch_size=batch_size)

    def facts(self, splits) -> dict[int, dict]:
        """{row: the fields of the example that are text, lists of texts, or numbers}; read once a split."""
        if splits not in self._facts:
            source = self.source(splits)
            examples = (source[i] for i in range(len(source)))
            self._facts[splits] = {
                int(e["row"]): {k: v for k, v in e.items() if k != "row" and _is_fact(v)} for e in examples
            }
        return self._facts[splits]

    @functools.cached_property
    def _facts(self):
        return {}

    def column(self, field: str, splits, key: str) -> dict[int, Any]:
        """{row: the value of one field}; key: the config key that names it."""
        facts = self.facts(splits)
        lacking = [row for row, fact in facts.items() if field not in fact]
        if lacking:
            known = sorted(set.intersection(*(set(f) for f in facts.values())))
            raise ValueError(
                f"{key}: {field!r}: row {lacking[0]} of {splits!r} has no such field; all have {', '.join(known)}"
            )
        return {row: fact[field] for row, fact in facts.items()}

    def classes(self, label: str, train, splits, key: str) -> list:
        """The labels of the training split, sorted. ValueError if a split to be scored has others."""
        known = set(self.column(label, train, key).values())
        for row, value in self.column(label, splits, key).items():
            if value not in known:
                raise ValueError(
                    f"{key}: {label}={value!r} of row {row} in {splits!r} is none of the {len(known)} labels of "
                    f"{train!r}: no classifier can name it; choose another field or other splits"
                )
        return sorted(known)

    @functools.cached_property
    def held_out(self) -> tuple[str, ...]:
        """Those of the splits val and test that the data have."""
        build.source(self.run.data, self.run.data.train)  # data that cannot be opened are another matter
        return tuple(split for split in ("val", "test") if self._has(split))

    def _has(self, split) -> bool:
        try:
            return split in build.splits(self.run.data) and len(build.source(self.run.data, split)) > 0
        except build.Untold:
            pass
        try:
            return len(build.source(self.run.data, split)) > 0
        except (ValueError, FileNotFoundError):
            return False

    @functools.cached_property
    def labels(self) -> tuple[str, ...]:
        """Fields that can serve as labels, the fewest classes first.

        Those with 2 or more texts, 5 or more training examples each on average, and none that training lacks.
        """
        facts, found = self.facts(self.run.data.train), {}
        held_out = self.facts(self.held_out) if self.held_out else {}
        for field in facts[next(iter(facts))]:
            values, others = ([f.get(field) for f in part.values()] for part in (facts, held_out))
            if not all(isinstance(v, str) for v in [*values, *others]):
                continue
            names = set(values)
            if set(others) <= names and 2 <= len(names) <= len(values) / 5:
                found[field] = len(names)
        return tuple(sorted(found, key=found.get))


def _is_fact(value) -> bool:
    if isinstance(value, (list, tuple)):
        return all(isinstance(v, str) for v in value)
    return isinstance(value, (str, int, float, np.number))


@dataclasses.dataclass(frozen=True, eq=False)
class Task:
    """What the tasks share: their context, and checks that name the key, the value and the remedy.

    A representation is written `name`, several modalities read together `name+name`, what one layer gives
    `name:LAYER` (0 is the first, -1 the last), and what the network predicts another modality to be `name>made`.
    """

    context: Context

    place: ClassVar[int] = (
        0  # among the tasks of the harness, in the order of the page; 0: only where a config names it
    )
    own_baseline: ClassVar[str] = ""  # the score that says what it takes to be good, in an untrained network's stead

    @staticmethod
    def default(context) -> dict:
        """Config keys for a run that names none, or `Unfit`."""
        return {}

    @property
    def where(self) -> str:
        return type(self).__module__.rpartition(".")[2]

    @property
    def reads(self) -> dict:
        """{key: split or splits of the run's data} that the task will read."""
        return {key: getattr(self, key) for key in SPLITS if getattr(self, key, None)}

    @property
    def needs(self) -> tuple:
        """Specs of the modalities that the task names, all of the run's if it names none."""
        named = [getattr(self, key) for key in NAMES if hasattr(self, key)]
        if not named:
            return (*self.context.modalities, *self.context.run.labels)
        names = {name for spec in _strings(named) for name in parts(spec)}
        return tuple(m for m in self.context.modalities if m.name in names)

    def fail(self, key, remedy):
        raise ValueError(f"{self.where}.{key}={getattr(self, key)!r}: {remedy}")

    def check_names(self, key: str, names):
        """ValueError unless every representation is of modalities that the network reads."""
        known = [m.name for m in self.context.modalities]
        for spec in names:
            for name in parts(spec):
                if name not in known:
                    raise ValueError(f"{self.where}.{key}: no modality {name!r}; the run has {', '.join(known)}")
                if name not in self.context.readable:
                    raise ValueError(
                        f"{self.where}.{key}: the network does not read {name!r}; it reads "
                        f"{', '.join(self.context.readable)}"
                    )

            made = split_made(spec)[1]
            if made:
                self._check_made(key, made)

    def _check_made(self, key: str, name: str):
        m = next((m for m in self.context.modalities if m.name == name), None)
        if m is None or not m.targets or not m.fixed_length:
            raise ValueError(f"{self.where}.{key}: >{name}: no grid or set that the network predicts")

    def check_tokenizers(self):
        """ValueError unless what is made, `a>c`, has a tokenizer here that decodes it."""
        for key in NAMES:
            for name in filter(None, (split_made(spec)[1] for spec in _strings(getattr(self, key, ())))):
                tokenizer = next(m.tokenizer for m in self.context.modalities if m.name == name)
                if tokenizer not in self.context.tokenizers:
                    raise ValueError(
                        f"{self.where}.{key}: >{name}: no tokenizer here decodes it; there are "
                        f"{', '.join(self.context.tokenizers) or 'none'}"
                    )

    def check_files(self):
        """Raises if a file beside the data that the task reads is not there, or not what it should be."""

    def check(self):
        """Reads what the task needs of the data, and raises before anything is computed if it is not there."""


def check(evaluator, context: Context, where: str, *, whole: bool = True):
    """Raises before anything is computed if a split that an evaluator will read is not there, empty, or lacks fields.

    whole: also reads the data for what else the evaluator needs of them. where: its place in the config.
    """
    needs = getattr(evaluator, "needs", (*context.modalities, *context.run.labels))
    keys = {key: getattr(evaluator, key) for key in SPLITS if getattr(evaluator, key, None)}
    for key, splits in getattr(evaluator, "reads", keys).items():
        try:
            context.source(splits)
            for split in context.there(splits):
                found = context.source(split)
                if not isinstance(found, mixture.Source):  # of several sources not every one has everything
                    check_fields(needs, found, context.run.data.transforms)
        except (ValueError, OSError) as e:
            raise ValueError(f"{where}.{key}={splits!r}: {e}") from e
    if isinstance(evaluator, Task):
        try:
            evaluator.check_files()
        except (ValueError, OSError) as e:
            raise ValueError(f"{where}: {e}") from e
    if whole and isinstance(evaluator, Task):
        evaluator.check_tokenizers()
    if whole and hasattr(evaluator, "check"):
        evaluator.check()


def _strings(value) -> list[str]:
    return [value] if isinstance(value, str) else [s for v in value for s in _strings(v)]


def parts(spec: str) -> list[str]:
    """The modalities that a representation reads: `a+b:2` → [a, b], `a>c` → [a]."""
    return split_made(split_layer(spec)[0])[0].split("+")


def split_made(spec: str) -> tuple[str, str]:
    """`a+b>c` → ("a+b", "c"); "" where nothing is made."""
    given, _, made = spec.partition(">")
    return given, made


def split_layer(spec: str) -> tuple[str, int | None]:
    """`a+b:2` → ("a+b", 2); without a layer None."""
    names, colon, layer = spec.rpartition(":")
    return (names, int(layer)) if colon and layer.lstrip("-").isdigit() else (spec, None)


def some(found, most: int, reason: str, *, least: int = 1) -> list:
    """The first `most` of what a default found; `Unfit` with the reason if there are fewer than `least`."""
    if len(found) < least:
        raise Unfit(reason)
    return list(found[:most])
