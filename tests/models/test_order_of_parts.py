"""Parts of a config come in any order: a ConfigDict sorts its keys."""

import pytest
from ml_collections import ConfigDict

from pretrain import build
from pretrain.models.network import in_order
from pretrain.models.parts import embed, encoder, pool

PARTS = dict(
    zero=embed.Config(dim=16), middle=encoder.Config(("zero",), dim=16, heads=2), a=pool.Config(("middle",), width=16)
)  # fmt: skip


def test_a_part_stands_behind_what_it_reads_however_the_config_is_written():
    turned = dict(reversed(PARTS.items()))
    assert list(in_order(PARTS)) == list(in_order(turned)) == ["zero", "middle", "a"]


def test_a_config_dict_may_name_them():
    specs = dict(
        zero=dict(part="embed", dim=16), middle=dict(part="encoder", reads=("zero",), dim=16, heads=2),
        a=dict(part="pool", reads=("middle",), width=16),
    )  # fmt: skip
    config = ConfigDict(dict(
        steps=1, batch_size=1, data=dict(source="none"), model=dict(model="models.network", parts=specs),
        modalities=[dict(name="x", kind="vectors", shape=(1, 4), field="x", targets=False)], objectives=dict(masked={}),
    ))  # fmt: skip
    states = build.states(build.parse(config))
    assert [name for name, _ in states.parts] == ["zero", "middle", "a"] and states.pooled_modalities == ("x",)


def test_a_circle_is_named():
    parts = PARTS | dict(middle=encoder.Config(("a",), dim=16, heads=2))
    with pytest.raises(ValueError, match=r"model\.parts: a, middle read each other in a circle"):
        in_order(parts)
