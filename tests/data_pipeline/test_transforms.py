"""Transforms: named in order by a config, each with draws of its own; what they write is read like any field."""

import collections
import dataclasses
import json
import re
from pathlib import Path

import numpy as np
import pytest
from absl import flags

from data_pipeline import discover, mixture, transforms
from data_pipeline.pipeline import Encoder, eval_batches, train_batches
from data_pipeline.plan import gives
from data_pipeline.sources import emoji
from data_pipeline.spec import Modality
from data_pipeline.text import TextTokenizer
from data_pipeline.transforms import base, crop, jitter, perturbed_text, randaugment, swapped_text, text_variants, views
from data_pipeline.transforms.swapped_text import swap
from data_pipeline.view import VIEW
from pretrain import build

ROOT = Path(__file__).parents[2]
TEXT = TextTokenizer()
RGB = Modality("rgb", "pixels", (32, 32, 3), "render3d")
EDGES = Modality("edges", "pixels", (16, 16, 1), "edges:render3d")
CAPTION = Modality("caption", "sequence", (24,), "caption", "text", 8000, tokenizer="text")
CODE = Modality("code", "grid", (2, 2), "code", "c", 9, tokenizer="c")
ALL = (
    text_variants.Transform("caption", ("name:en", "keywords")),
    crop.Transform(min_scale=0.5, flip=0.5),
    randaugment.Transform(),
    swapped_text.Transform("caption"),
    views.Transform(("render3d",), transforms=(crop.Transform(min_scale=0.3), randaugment.Transform())),
)


def encoder(*given, modalities=(RGB, EDGES, CAPTION), train=True):
    return Encoder(modalities, {"text": TEXT}, train, given)


def words(entry) -> str | None:
    return TEXT.decode(entry["ids"][entry["valid"]]) if entry["valid"].any() else None


def equal(a, b) -> bool:
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(equal(a[k], b[k]) for k in a)
    return a.dtype == b.dtype and np.array_equal(a, b)


# -- A list of transforms --------------------------------------------------------------------------------------------


def data(**changes):
    modalities = [dict(name="rgb", kind="pixels", shape=(32, 32, 3), field="render3d")]
    config = dict(steps=1, batch_size=2, modalities=modalities, model={}, objectives={"masked": {}})
    return build.parse(config | dict(data=dict(source="emoji", **changes))).data


def test_a_config_names_them_in_order():
    assert data().transforms == (crop.Transform(0.8, (1.0, 1.0), 0.0),)
    inner = [dict(transform="jitter", scales=(0.5, 2.0))]
    given = [
        dict(transform="crop", min_scale=0.3), dict(transform="randaugment", ops=3),
        dict(transform="views", fields=["render3d"], transforms=inner),
    ]  # fmt: skip
    assert data(transforms=given).transforms == (
        crop.Transform(min_scale=0.3),
        randaugment.Transform(ops=3),
        views.Transform(("render3d",), transforms=(jitter.Transform((0.5, 2.0)),)),
    )
    assert data(transforms=[]).transforms == ()


@pytest.mark.parametrize(
    "given, message",
    [
        (
            dict(transform="crops"),
            r"config.data.transforms\[0\].transform='crops': .* there are: .*crop, instructed, jitter, one_row",
        ),
        (dict(transform="crop", min_scal=0.3), r"config.data.transforms\[0\].min_scal=0.3: unknown key; did you mean"),
        (dict(transform="crop", min_scale=2.0), r"min_scale=2.0 must be in \(0, 1\]"),
        (dict(transform="views"), r"config.data.transforms\[0\].fields: missing"),
        (dict(transform="text_variants", field="name:en", of=["keywords"]), "field='name:en', .*: give it a name that"),
        (dict(transform="text_variants", field="c", of=["keywords"], join=(2, 1)), r"join=\(2, 1\): must be \(least"),
        (dict(transform="swapped_text", field="keywords"), "field='keywords': is written of other fields"),
        (dict(transform="perturbed_text", field="keywords", into="c"), "field='keywords': is written of other fields"),
        (dict(transform="perturbed_text", field="b", into="b"), "into='b': give it a name that nothing else has"),
        (dict(transform="perturbed_text", field="b", into="c", how=["words"]), r"how=.*: name one or more of typos, o"),
        (
            dict(transform="perturbed_text", field="b", into="c", edits=[]),
            r"edits=\(\): name one or more of swap, drop",
        ),
        (dict(transform="perturbed_text", field="b", into="c", rate=0.0), "rate=0.0: must be above 0 and at most 1"),
    ],
)
def test_mistakes_of_a_config_are_named(given, message):
    with pytest.raises(ValueError, match=message):
        data(transforms=[given])


@pytest.mark.parametrize(
    "given, message",
    [
        ((crop.Transform(), crop.Transform()), "crop draws crop again after crop: keep one of them"),
        ((views.Transform(("noto",)),), "views writes 'noto/view', but no modality is made from 'noto'; .* render3d"),
        ((views.Transform(("render3d",)), views.Transform(("render3d",))), "views draws render3d/view again after vi"),
        ((swapped_text.Transform("capt"),), "swapped_text writes 'capt/swapped', but no modality is made from 'capt'"),
    ],
)
def test_transforms_that_do_not_fit_together_are_named(given, message):
    with pytest.raises(ValueError, match=message):
        encoder(*given)


def test_fields_that_are_not_there_are_named():
    source, texts = emoji.Source("val"), text_variants.Transform("caption", ("name:en", "alt"))
    with pytest.raises(ValueError, match=r"data.transforms\[1\]: text_variants reads the field 'alt', which is unkn"):
        train_batches(source, encoder(crop.Transform(), texts), batch_size=1, seed=0)
    with pytest.raises(ValueError, match="modality 'caption': field='caption' is unknown"):
        train_batches(source, encoder(), batch_size=1, seed=0)
    assert gives(source, CAPTION, ALL) and not gives(source, CAPTION)


def test_what_one_draws_changes_no_other():
    example = emoji.Source("train")[3]
    for seed in range(6):
        alone, beside, changed = (
            encoder(*given)(example, np.random.default_rng(seed))
            for given in (ALL[:2], ALL, (ALL[0], ALL[1], randaugment.Transform(ops=0), *ALL[3:]))
        )
        assert equal(alone["caption"], beside["caption"]) and equal(alone["rgb"], changed["rgb"])


@dataclasses.dataclass(frozen=True)
class Keeps(base.Transform):
    """Writes down what it is given."""

    seen: list

    def __call__(self, example, rng):
        self.seen.append((dict(example), rng))
        return example


def test_an_example_is_not_changed_in_place_and_evaluation_draws_nothing():
    example, seen = emoji.Source("train")[3], []
    before = {k: np.copy(v) if isinstance(v, np.ndarray) else json.dumps(v, default=str) for k, v in example.items()}
    encoder(*ALL, Keeps(seen))(example, np.random.default_rng(0))
    encoder(*ALL, Keeps(seen), train=False)(example, np.random.default_rng(0))
    encoder(*ALL, Keeps(seen))(example, None)
    assert [rng is None for _, rng in seen] == [False, True, True]
    assert example.keys() == before.keys()
    for key, value in before.items():
        same = np.array_equal(value, example[key]) if isinstance(value, np.ndarray) else None
        assert same if same is not None else value == json.dumps(example[key], default=str)
    written = {field for transform in ALL for field in transform.writes if not field.startswith(f"{VIEW}.")}
    assert seen[0][0].keys() - example.keys() == written | {VIEW}


def test_workers_hosts_and_a_stop_change_nothing():
    flags.FLAGS.mark_as_parsed()
    source = emoji.Source("val")

    def stream(**options):
        return iter(train_batches(source, encoder(*ALL), batch_size=4, seed=3, **options))

    whole, beside, half = stream(), stream(workers=1), stream(rows=range(2, 4))
    for step in range(3):
        batch = next(whole)
        assert {"rgb/view", "edges/view", "caption/swapped"} <= batch.keys()
        assert equal(batch, next(beside))
        part = next(half)
        assert all(np.array_equal(part["rgb/view"][k], batch["rgb/view"][k][2:]) for k in ("pixels", "valid"))
        if step == 0:
            state = json.loads(json.dumps(whole.get_state()))
    again = stream()
    again.set_state(state)
    next(again)
    assert equal(next(again), batch)


# -- Texts -----------------------------------------------------------------------------------------------------------

CAPTIONS = {"row": 7, "alt": "a bus", "long": ["It is red.", "It has wheels.", "It is full."], "none": []}


def drawn(transform, example=CAPTIONS, count=300):
    made = encoder(transform, modalities=(CAPTION,))
    return [words(made(example, np.random.default_rng(seed))["caption"]) for seed in range(count)]


def test_one_of_several_texts_is_drawn_evenly():
    count = collections.Counter(drawn(text_variants.Transform("caption", ("alt", "missing", "long", "none"))))
    assert set(count) == {"a bus", "it is red.", "it has wheels.", "it is full."}
    assert 120 < count["a bus"] < 180 and min(count.values()) > 30
    still = encoder(text_variants.Transform("caption", ("missing", "long", "alt")), modalities=(CAPTION,), train=False)
    assert words(still(CAPTIONS, None)["caption"]) == "it is red."
    assert not still({"row": 1}, None)["caption"]["valid"].any(), "absent, as none of them is there"


def test_sentences_are_drawn_and_joined_in_their_order():
    found = set(drawn(text_variants.Transform("caption", ("long",), (1, 2))))
    sentences = [s.lower() for s in CAPTIONS["long"]]
    assert found == {*sentences, *(f"{a} {b}" for i, a in enumerate(sentences) for b in sentences[i + 1 :])}
    still = encoder(text_variants.Transform("caption", ("long",), (1, 2)), modalities=(CAPTION,), train=False)
    assert words(still(CAPTIONS, None)["caption"]) == " ".join(sentences[:2])


def test_what_is_written_of_fields_may_be_drawn_too():
    example = emoji.Source("train")[0]
    found = set(drawn(text_variants.Transform("caption", ("name:en", "group")), example, 30))
    assert found == {example["name"]["en"].lower(), example["group"].lower()}
    with pytest.raises(ValueError, match=r"text_variants of 'caption': row 7: field='alt' holds \{'a': 1\}"):
        drawn(text_variants.Transform("caption", ("alt",)), CAPTIONS | {"alt": {"a": 1}}, 1)


def test_only_the_fields_that_a_text_is_drawn_from_are_read_as_texts():
    asked = []

    class Files:
        def pick(self, index, fields, texts):
            asked.append((fields, texts))
            return {"row": index}

    made = encoder(text_variants.Transform("caption", ("alt", "name:en")), *ALL[1:])
    made.read(Files(), 0)
    ((fields, texts),) = asked
    assert fields == {"render3d", "caption", "alt", "name", "crop_settings"} and texts == {"caption", "alt", "name"}


def test_a_swapped_text_has_the_same_words_and_is_of_the_same_text():
    made = encoder(swapped_text.Transform("caption"), modalities=(CAPTION,))
    seen = set()
    for seed in range(60):
        example = {"row": 0, "caption": ["a black cat, and a white dog.", "red on blue"]}
        batch = made(example, np.random.default_rng(seed))
        text, swapped = words(batch["caption"]), words(batch["caption/swapped"])
        assert text != swapped and sorted(re.findall(r"\w+", text)) == sorted(re.findall(r"\w+", swapped))
        seen.add(swapped)
    assert {"blue on red", "a white cat, and a black dog."} <= seen and len(seen) > 8
    batch = made({"row": 0, "caption": "Dog dog"}, np.random.default_rng(0))
    assert batch["caption"]["valid"].any() and not batch["caption/swapped"]["valid"].any()
    assert swap("cat", np.random.default_rng(0)) is None
    still = encoder(swapped_text.Transform("caption"), modalities=(CAPTION,), train=False)
    assert equal(still(CAPTIONS | {"caption": "a b c"}, None), still(CAPTIONS | {"caption": "a b c"}, None))


# -- Views -----------------------------------------------------------------------------------------------------------


def test_a_second_view_is_under_its_own_crop_and_the_first_as_without_it():
    example, view = emoji.Source("train")[5], views.Transform(("render3d",), transforms=(crop.Transform(0.3),))
    plain, both, still = encoder(crop.Transform()), encoder(crop.Transform(), view), encoder(view, train=False)
    other = 0
    for seed in range(8):
        one, two = plain(example, np.random.default_rng(seed)), both(example, np.random.default_rng(seed))
        assert two.keys() - one.keys() == {"rgb/view", "edges/view"}
        assert all(equal(one[k], two[k]) for k in one)
        other += not np.array_equal(two["rgb"]["pixels"], two["rgb/view"]["pixels"])
    assert other > 5
    made = still(example, None)
    assert equal(made["rgb"], made["rgb/view"]), "in evaluation both are the whole"


def test_both_modalities_of_a_view_show_one_crop():
    twice = Modality("twice", "pixels", (32, 32, 3), "noto")
    picture = emoji.Source("train")[5]["render3d"]
    made = encoder(views.Transform(("render3d", "noto")), modalities=(RGB, twice))
    batch = made({"row": 0, "render3d": picture, "noto": picture}, np.random.default_rng(0))
    assert equal(batch["rgb/view"], batch["twice/view"]) and not equal(batch["rgb"], batch["rgb/view"])


def test_the_tokens_of_a_view_are_of_another_crop():
    made = encoder(views.Transform(("code",)), modalities=(CODE,))
    example = {"row": 0, "code": np.arange(8)[:, None].repeat(4, 1)}
    pairs = [made(example, np.random.default_rng(s)) for s in range(40)]
    pairs = [(int(b["code"]["ids"][0]), int(b["code/view"]["ids"][0])) for b in pairs]
    assert len(set(pairs)) > 20 and {a for a, _ in pairs} == {b for _, b in pairs} == set(range(8))


def test_a_variant_is_absent_where_its_modality_is():
    made = encoder(*ALL, train=False)
    (batch,) = eval_batches([emoji.Source("val")[0], {"row": 1}], made, batch_size=3)
    for entry in ("rgb", "rgb/view", "edges/view", "caption"):
        valid = batch[entry]["valid"]
        assert valid[0].any() and not valid[1:].any(), entry
    part = mixture.Part(emoji.Source("val"), modalities=("caption",))
    batch = made(mixture.Source([part], [1.0])[0], None)
    assert batch["caption"]["valid"].any() and not batch["rgb/view"]["valid"].any()


# -- A new one -------------------------------------------------------------------------------------------------------


def test_a_new_transform_is_one_file_written_as_the_documents_say(tmp_path, monkeypatch):
    (code,) = re.findall(r"```python\n(\"\"\".*?)```", (ROOT / "docs" / "data.md").read_text(), re.DOTALL)
    (tmp_path / "without_stop.py").write_text(code)
    monkeypatch.setattr(transforms, "__path__", [*transforms.__path__, str(tmp_path)])
    discover.files.cache_clear()
    try:
        (made,) = data(transforms=[dict(transform="without_stop", field="caption")]).transforms
    finally:
        discover.files.cache_clear()
    assert transforms.name(made) == "without_stop"
    batch = encoder(made, modalities=(CAPTION,))({"row": 0, "caption": "it is red."}, np.random.default_rng(0))
    assert words(batch["caption"]) == "it is red"


# -- Perturbed texts -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "edit, lengths, shared", [("swap", {6}, 6), ("drop", {5}, 5), ("double", {7}, 6), ("replace", {6}, 5)]
)
def test_a_mistyped_word_differs_by_one_edit(edit, lengths, shared):
    rng = np.random.default_rng(0)
    made = {perturbed_text.mistype("wrench", edit, rng) for _ in range(200)}
    assert {len(word) for word in made} == lengths and "wrench" not in made and len(made) > 4
    for word in made:
        common = collections.Counter(word) & collections.Counter("wrench")
        assert common.total() == shared, word
    assert perturbed_text.mistype("a", edit, rng) == "a"


def test_a_perturbed_text_has_the_same_words_or_nearly():
    said, rng = "three red keys under water", np.random.default_rng(1)
    perturb = lambda *how, rate=1.0: perturbed_text.Transform("a", "b", how, rate).perturb(said, rng)
    order = {perturb("order") for _ in range(30)}
    assert len(order) > 20 and {tuple(sorted(text.split())) for text in order} == {tuple(sorted(said.split()))}
    typos = [perturb("typos").split() for _ in range(200)]
    assert {len(text) for text in typos} == {5}
    assert np.mean([a != b for text in typos for a, b in zip(text, said.split())]) > 0.85
    rare = [perturb("typos", rate=0.1).split() for _ in range(200)]
    assert 0.03 < np.mean([a != b for text in rare for a, b in zip(text, said.split())]) < 0.15
    both = [perturb("both").split() for _ in range(30)]
    assert all(sorted(text) != sorted(said.split()) for text in both)


def test_both_texts_are_of_the_one_that_was_drawn():
    other = dataclasses.replace(CAPTION, name="other", field="other")
    one = perturbed_text.Transform("caption", "other", ("order",))
    example = {"row": 0, "caption": ["one two three four", "red blue green black"]}
    for seed in range(8):
        made = encoder(one, modalities=(CAPTION, other))(example, np.random.default_rng(seed))
        assert sorted(words(made["caption"]).split()) == sorted(words(made["other"]).split())
    evaluated = encoder(one, modalities=(CAPTION, other), train=False)
    assert words(evaluated(example, None)["caption"]) == "one two three four"
    assert equal(evaluated(example, None)["other"], evaluated(example, None)["other"])
    assert words(evaluated({"row": 0}, None)["other"]) is None
