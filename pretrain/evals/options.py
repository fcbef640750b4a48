"""Option tests: of sentences that templates make of a scene graph, is the true one nearest to the picture?

Ownership, negation, relation, place and word order as in SNARE (arXiv 2308.12898); orders of words after ARO (arXiv
2210.01936, section 2.3).
"""

import dataclasses

import numpy as np

from pretrain.evals.base import Score, Task
from pretrain.evals.features import embed_texts, represent, unit
from pretrain.evals.zero_shot import check_embedded

TESTS = ("ownership", "negation", "relation", "place", "order")
RELATIONS = ("left of", "right of", "above", "below")
TRUE, EXCHANGED = "true", "exchanged"


@dataclasses.dataclass(frozen=True, eq=False)
class Evaluator(Task):
    """How often the nearest of a test's sentences, by cosine, is the true one, and each other; chance is one in as
    many as there are. `true over exchanged`: of these two alone, which say it in the same words. A tie is shared.

    objects, attributes, relation: fields of the examples: two objects, an attribute of each, and how the first stands
    to the second. relations: those that `place` chooses from. examples: how many, evenly among all that have two
    different objects, two different attributes and a relation.
    """

    place = 0

    text: str
    modalities: tuple[str, ...]
    tests: tuple[str, ...] = TESTS
    objects: str = "objects"
    attributes: str = "attributes"
    relation: str = "relation"
    relations: tuple[str, ...] = RELATIONS
    splits: tuple[str, ...] = ("val", "test")
    examples: int = 512

    def __post_init__(self):
        check_embedded(self, "modalities", self.modalities)
        check_embedded(self, "text", [self.text], texts=True)
        if unknown := [test for test in self.tests if test not in TESTS]:
            self.fail("tests", f"no test {unknown[0]!r}; there are {', '.join(TESTS)}")
        if len(set(self.relations)) < 2:
            self.fail("relations", "needs at least 2 to choose from")
        if self.examples < 1:
            self.fail("examples", "must be at least 1")

    def check(self):
        graphs = self._graphs()
        if not graphs:
            self.fail("objects", f"no example of {self.splits} has two objects with different attributes; take others")
        for row, (*_, relation) in graphs.items():
            if "place" in self.tests and relation not in self.relations:
                self.fail("relations", f"lacks {relation!r} of row {row}: name it too, or leave out the test `place`")

    def run(self, params):
        for name in self.modalities:
            for test, (options, cosine) in self._scores(params, name).items():
                for option, share in shares(options, cosine).items():
                    yield f"{name}/{test}/{option}", Score(share, options.count(option) / len(options))
                if EXCHANGED in options:
                    pair = cosine[:, [options.index(TRUE), options.index(EXCHANGED)]]
                    yield f"{name}/{test}/true over exchanged", Score(shares([TRUE, EXCHANGED], pair)[TRUE], 0.5)

    def _scores(self, params, name: str) -> dict:
        """{test: (names of its options, their cosines `[n, options]`)}."""
        graphs = self._graphs()
        rows, z = represent(self.context, params, name, self.splits, "z")
        shown = [i for i, row in enumerate(rows.tolist()) if row in graphs]
        asked = [sentences(*graphs[int(rows[i])], self.relations) for i in shown]
        texts = sorted({text for tests in asked for test in self.tests for _, text in tests[test]})
        cosine = unit(z[shown]) @ unit(embed_texts(self.context, params, self.text, texts)).T
        place = {text: i for i, text in enumerate(texts)}
        found = {}
        for test in self.tests:
            where = np.asarray([[place[text] for _, text in tests[test]] for tests in asked])
            found[test] = [option for option, _ in asked[0][test]], np.take_along_axis(cosine, where, 1)
        return found

    def _graphs(self) -> dict:
        """{row: (objects, attributes, relation)} of examples of the splits."""
        columns = [
            self.context.column(getattr(self, key), self.splits, f"{self.where}.{key}")
            for key in ("objects", "attributes", "relation")
        ]
        every = {row: tuple(column[row] for column in columns) for row in columns[0]}
        whole = {
            row: graph
            for row, graph in every.items()
            if all(isinstance(x, (list, tuple)) and len(set(x)) == len(x) == 2 for x in graph[:2]) and graph[2]
        }
        chosen = np.linspace(0, len(whole) - 1, min(self.examples, len(whole))).round().astype(int)
        return {row: whole[row] for row in np.asarray(list(whole))[chosen].tolist()} if whole else {}

    def figures(self, params, images):
        """Which sentence is nearest, test by test, and what the sentences of one example are."""
        from pretrain.evals.pictures import stacked

        example = sentences(*next(iter(self._graphs().values())), self.relations)
        for name in self.modalities:
            found = self._scores(params, name)
            bars = {f"{test}: {example[test][0][1]}": shares(*given) for test, given in found.items()}
            chance = [1 / len(options) for options, _ in found.values()]
            yield (
                f"Which sentence is nearest to {name}? The true one should be; a line: by chance",
                stacked(bars, chance),
            )


def sentences(objects, attributes, relation: str, relations=RELATIONS) -> dict:
    """{test: [(option, sentence)]}, the true one first."""
    (a, b), (x, y) = objects, attributes
    stands, whole = f"the {a} is {relation} the {b}", f"the {x} {a} is {relation} the {y} {b}"
    content = {word for phrase in (*objects, *attributes) for word in phrase.split()}
    return {
        "ownership": [
            (TRUE, f"the {a} is {x} and the {b} is {y}"),
            (EXCHANGED, f"the {a} is {y} and the {b} is {x}"),
            ("respectively", f"the {a} and the {b} are {x} and {y} respectively"),
        ],
        "negation": [(TRUE, f"the {a} is {x}"), ("negated", f"the {a} is not {x}")],
        "relation": [
            (TRUE, stands),
            (EXCHANGED, f"the {b} is {relation} the {a}"),
            ("none", f"the {a} and the {b}"),
        ],
        "place": [(TRUE, stands), *(("another", f"the {a} is {r} the {b}") for r in relations if r != relation)],
        "order": [(TRUE, whole), *orders(whole, content)],
    }


def orders(sentence: str, content) -> list[tuple[str, str]]:
    """[(option, the words of a sentence in another order)]: those of its content turned round, all others, groups of
    three words, and the words in each group. content: a set of words."""
    words = sentence.split()
    groups = [words[i : i + 3] for i in range(0, len(words), 3)]

    def turned(inside: bool) -> list[str]:
        moved = iter([word for word in words if (word in content) == inside][::-1])
        return [next(moved) if (word in content) == inside else word for word in words]

    found = {
        "content": turned(True),
        "other words": turned(False),
        "groups": [word for group in reversed(groups) for word in group],
        "in groups": [word for group in groups for word in reversed(group)],
    }
    return [(option, " ".join(order)) for option, order in found.items()]


def shares(options, scores) -> dict[str, float]:
    """{option: how often it is the highest}, of scores `[n, options]`; those within 1e-6 share it, equal names add."""
    best = scores >= scores.max(1, keepdims=True) - 1e-6
    each = (best / best.sum(1, keepdims=True)).mean(0)
    return {option: float(sum(s for o, s in zip(options, each) if o == option)) for option in dict.fromkeys(options)}
