"""Implicit alignment against an independent writing, and what it refuses."""

import numpy as np
import pytest
import tiny
from toy import Toy, batch

from pretrain.evals import harness, implicit_alignment
from pretrain.evals.implicit_alignment import top_share
from pretrain.evals.intervened import sample
from pretrain.models.stack import PerLayer
from pretrain.models.tokens import Whole


def unit(x):
    return x / np.linalg.norm(x, axis=-1, keepdims=True)


def test_every_number_is_that_of_an_independent_writing():
    """Example by example, token by token, in float64."""
    toy = Toy(registers=1, encoder_depth=3)
    task = implicit_alignment.Evaluator(toy, (("image", "caption"),), splits=("val",), examples=8, top=0.3)
    found = dict(task.run(toy.params))
    data = sample(task, ("image", "caption"))
    assert len(data["row"]) == 8 and set(data["row"]) <= set(batch("val", 0)["row"])
    network = tiny.nnx.merge(toy.graph, toy.params["model"])
    shown = Whole(("image", "caption"), tiny.MODALITIES)(data)
    encoded = network.run("encoder", network.run("embed", shown), layers=True)
    layers, kinds = np.asarray(encoded.layers, np.float64), np.where(encoded.valid, encoded.modality, -1)
    each = {mode: [] for mode in ("alignment", *implicit_alignment.MODES)}
    norms, later = ({"image": [], "caption": []} for _ in range(2))
    for i in range(3):
        for x, kind in zip(layers, kinds):
            a, b = x[i][kind == 0], x[i][kind == 2]
            each["alignment"].append(unit(a.mean(0)) @ unit(b.mean(0)))
            cosines = unit(a) @ unit(b).T
            for mode in ("max", "mean", "median", "min"):
                each[mode].append(getattr(np, mode)(cosines))
            each["max_mean"].append(cosines.max(1).mean())
        for name, number in (("image", 0), ("caption", 2)):
            mine = kinds == number
            norms[name].append(np.linalg.norm(layers[:, i][mine], axis=-1).mean())
            if i:
                later[name].append((unit(layers[:, i][mine]) * unit(layers[:, i - 1][mine])).sum(-1).mean())
    for name, values in each.items():
        assert found[f"image~caption/{name}"] == pytest.approx(np.mean(values), abs=1e-5), name
    last = np.mean(each["alignment"][-8:])
    assert found["image~caption/alignment, last layer"] == pytest.approx(last, abs=1e-5)
    for name in norms:
        assert found[f"image~caption/norm of {name}"] == pytest.approx(np.mean(norms[name]), rel=1e-5)
        assert found[f"image~caption/consecutive of {name}"] == pytest.approx(np.mean(later[name]), abs=1e-5)
    overlaps, attention = [], network.encoder.blocks.attn
    for i in (1, 2):
        x, scale = layers[:, i - 1], np.asarray(attention.norm.scale[i])
        x = scale * (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-6)
        kernel = np.abs(np.asarray(attention.qkv.kernel[i]))
        masks = []
        for number in (0, 2):
            score = kernel * np.linalg.norm(x[kinds == number], axis=0)[:, None]
            masks.append(score > np.sort(score, axis=None)[int(np.ceil(0.7 * score.size)) - 1])
        overlaps.append((masks[0] & masks[1]).sum() / (masks[0] | masks[1]).sum())
    assert found["image~caption/overlap"] == pytest.approx(np.mean(overlaps), abs=0.01)
    assert found["image~caption/overlap"].chance == pytest.approx(0.3 / 1.7)
    assert top_share(np.arange(10.0), 0.3).sum() == 3


def test_what_skipping_costs():
    """Nothing where no block is skipped; who skips decides."""
    toy = Toy(encoder_depth=3)
    keys = dict(pairs=(("image", "caption"),), label="label")
    found = dict(implicit_alignment.Evaluator(toy, **keys, stride=4).run(toy.params))
    skipped = [found[f"image~caption/skipped {name}/label"] for name in ("nothing", "image", "caption")]
    assert skipped[0] == skipped[1] == skipped[2] > 0.6
    assert skipped[0].chance == pytest.approx(1 / 3, abs=0.05)
    task = implicit_alignment.Evaluator(toy, **keys, stride=1)
    network = tiny.nnx.merge(toy.graph, toy.params["model"])
    stream = network.run("embed", Whole(("image", "caption"), tiny.MODALITIES)(batch("val", 0)))
    edits = [task._skip(("image", "caption"), i)["encoder"] for i in range(3)]
    keep = [np.asarray(edit(stream, None, PerLayer())[1].keep) for edit in edits]
    assert keep[0].all() and not keep[1][:, :, :16, 1].any() and keep[1][:, :, 16:].all() and keep[1][..., 0].all()
    assert keep[2][:, :, :16].all() and not keep[2][:, :, 16:, 1][:, np.asarray(stream.valid[:, 16:])].any()


def test_towers_are_compared_layer_by_layer():
    toy = Toy()
    task = implicit_alignment.Evaluator(toy, (("image", "depth"),))
    found = dict(task.run(toy.params))
    assert -1 <= found["image~depth/alignment"] <= 1 and "image~depth/overlap" in found
    assert len(list(task.figures(toy.params, None))) == 3


REFUSED = [
    (dict(pairs=[("image", "sound")]), r"implicit_alignment\.pairs: no modality 'sound'; the run has image"),
    (dict(pairs=[("image:1", "caption")]), r"image:1~caption: name single modalities, without a layer"),
    (dict(pairs=[("image+depth", "caption")]), r"image\+depth~caption: name single modalities"),
    (dict(stride=0), r"implicit_alignment\.stride=0: must be at least 1"),
    (dict(top=1.0), r"implicit_alignment\.top=1\.0: must be between 0 and 1"),
    (dict(examples=0), r"implicit_alignment\.examples=0: must be at least 1"),
    (dict(label="kind"), r"implicit_alignment\.label: 'kind': row 0 of 'train' has no such field"),
]


@pytest.mark.parametrize("keys, message", REFUSED, ids=range(len(REFUSED)))
def test_refused_before_anything_is_computed(keys, message):
    context = Toy()
    context.run.final_evals = {"implicit_alignment": dict(pairs=[("image", "caption")]) | keys}
    with pytest.raises(ValueError, match=message):
        harness.make_tasks(context)
    assert not context.passes
