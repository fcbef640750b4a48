"""Meshes and rules: what is refused, what a device holds, and that no mesh changes what is learned."""

import dataclasses
import re

import jax
import numpy as np
import pytest
import tiny
from jax.sharding import PartitionSpec as P

from pretrain import build, sharding
from pretrain.parameters import Role, Roles, param
from pretrain.program import Program
from pretrain.sharding import AXES, BATCH, make_mesh, parse_mesh


@dataclasses.dataclass(frozen=True)
class Device:
    """As much of a device as a mesh looks at, where it is no TPU."""

    id: int
    process_index: int
    slice_index: int
    platform: str = "gpu"


def devices(count=8, hosts=1, slices=1):
    return [Device(i, i * hosts // count, i * slices // count) for i in range(count)]


def shape(text, **where):
    return tuple(make_mesh(parse_mesh(text), devices(**where)).shape.values())


def test_presets_and_sizes():
    assert shape("ddp", hosts=2) == (1, 8, 1, 1)
    assert shape("fsdp", hosts=2) == (1, 1, 8, 1) and shape("fsdp", slices=2) == (2, 1, 4, 1)
    assert shape("hsdp", hosts=2) == (1, 2, 4, 1) and shape("tp", hosts=4) == (1, 1, 4, 2)
    assert shape("fsdp=2,tensor=2") == (1, 2, 2, 2) == shape("tp,data=-1,fsdp=2,tensor=2")
    assert shape("slice=2,fsdp=-1") == (2, 1, 4, 1)
    ids = [d.id for d in make_mesh(parse_mesh("hsdp"), devices(hosts=2)[::-1]).devices.ravel()]
    assert ids == list(range(8)), "the devices of a host lie next to each other"


@pytest.mark.parametrize(
    "text, where, message",
    [
        ("data=3", {}, r"mesh: slice=1, data=3, fsdp=1, tensor=1 does not fit 8 device"),
        ("data=-1,fsdp=3", {}, "does not fit 8 device"),
        ("data=-1,fsdp=-1", {}, "at most one of them -1"),
        ("data=16", {}, "does not fit 8 device"),
        ("fsdp,slice=4", {"slices": 2}, "the devices form 2 slices; leave `slice` out"),
        ("fdsp", {}, "'fdsp' is none of ddp, fsdp, hsdp, tp, strict, or AXIS=SIZE"),
        ("fsdp=two", {}, "'fsdp=two' is none of"),
        ("slice=host", {}, "'slice=host' is none of"),
    ],
)
def test_meshes_that_do_not_fit(text, where, message):
    with pytest.raises(ValueError, match=message):
        shape(text, **where)


def layout(role, size, text):
    return sharding.param_layout(role, size, make_mesh(parse_mesh(text)))


def test_roles_say_what_is_split():
    """The first of a pair of matrices by columns, the second by rows; fsdp takes the largest dimension left, but
    rows where it would cut columns elsewhere than between a TPU's tiles of 128."""
    columns, rows, whole = Role(split=-1), Role(split=-2), Role()
    assert layout(columns, (4, 64, 96), "fsdp=4,tensor=2") == (P(None, "fsdp", "tensor"), "")
    assert layout(rows, (4, 96, 64), "fsdp=4,tensor=2") == (P(None, "tensor", "fsdp"), "")
    assert layout(columns, (4, 64, 1024), "fsdp") == (P(None, None, "fsdp"), "")
    assert layout(columns, (4, 64, 192), "fsdp") == (P(None, "fsdp", None), "")
    assert layout(whole, (12, 768), "fsdp=4,tensor=2") == (P(None, "fsdp"), ""), "rows of layers are no matrix"
    assert layout(rows, (80, 64), "fsdp=2,tensor=4") == (P("tensor", "fsdp"), "")
    assert layout(whole, (4, 64), "fsdp") == (P(None, None), ""), "small: whole, and no problem"
    assert layout(whole, (64, 96), "fsdp=4,tensor=2") == (P("fsdp", None), "")
    assert layout(columns, (4, 64, 97), "fsdp=4,tensor=2") == (
        P(None, "fsdp", None), "dimension -1 is not divisible by tensor=2; no tensor > 1 that divides 2 fits",
    )  # fmt: skip
    assert layout(None, (24, 5464), "fsdp") == (P(None, None), ""), "rows of a factored moment"
    spec, problem = layout(rows, (1003, 68), "fsdp")
    assert spec == P(None, None) and problem == "no dimension is divisible by fsdp=8; fsdp=4 would fit"


def test_what_cannot_be_split_is_told_or_refused():
    mesh, shape = make_mesh(parse_mesh("fsdp")), jax.ShapeDtypeStruct((1003, 68), np.float32)
    state = {"params": {"model": {"a": shape}}, "ema": {"model": {"a": shape}}}
    roles = Roles({"model": {"a": param(np.zeros(shape.shape))}})
    told = sharding.report(state, roles, mesh)
    assert "WARNING: 0.5 MiB a device are not split" in told
    assert "model/a [1003, 68]: no dimension is divisible by fsdp=8; fsdp=4 would fit (0.5 MiB a device)" in told
    with pytest.raises(ValueError, match=r"mesh: slice=1 data=1 fsdp=8 tensor=1, strict: 0.5 MiB a device are not"):
        sharding.report(state, roles, mesh, strict=True)


@pytest.mark.parametrize("text", ["ddp", "fsdp=2,tensor=4", "slice=2,fsdp=2,tensor=2"])
def test_rows_of_a_batch_come_to_the_devices_that_hold_them(text):
    mesh, x = make_mesh(parse_mesh(text)), np.arange(48).reshape(16, 3)
    rows = sharding.local_rows(mesh, 16)
    assert list(rows) == list(range(16))
    placed = sharding.place_batch({"x": x}, rows, 16, mesh)["x"]
    np.testing.assert_array_equal(placed, x)
    ways = np.prod([mesh.shape[a] for a in BATCH])
    assert {s.data.shape for s in placed.addressable_shards} == {(16 // ways, 3)}


def program(token_store, mesh, terms=("masked", "contrastive"), **changes):
    c = tiny.emoji_run(token_store, terms)
    c.mesh = mesh
    c.update(changes)
    return Program(build.parse(c))


def first_example(run):
    return build.encoder(run, train=True)(build.source(run.data, "train")[0], np.random.default_rng(0))


def losses(program, steps=20):
    """Every loss term of every step on real batches."""
    run = program.run
    encode, source = build.encoder(run, train=True), build.source(run.data, "train")
    step, out = program.lower(first_example(run)).compile(), []
    rows = sharding.local_rows(program.mesh, run.batch_size)
    with jax.set_mesh(program.mesh):
        state = program.place(program.fresh)
        for i in range(steps):
            picked = [encode(source[(8 * i + j) % 64], np.random.default_rng(8 * i + j)) for j in range(run.batch_size)]
            batch = jax.tree.map(lambda *x: np.stack(x), *picked)
            state, metrics = step(state, sharding.place_batch(batch, rows, run.batch_size, program.mesh))
            out.append({k: t.total / t.weight for k, t in jax.device_get(metrics["terms"]).items()})
    return out


MIXED = "slice=2,fsdp=2,tensor=2"
MESHES = {
    ("masked",): (MIXED,),
    ("contrastive",): (MIXED,),
    ("masked", "contrastive"): ("ddp", "fsdp", "slice=2,fsdp=4", "tensor=4", MIXED),
}


@pytest.mark.slow
@pytest.mark.parametrize("terms", MESHES, ids="+".join)
def test_no_mesh_changes_what_is_learned(token_store, terms, capfd):
    one = Program(build.parse(tiny.emoji_run(token_store, terms)), jax.devices()[:1])
    alone = losses(one)
    for mesh in MESHES[terms]:
        for step, (got, want) in enumerate(zip(losses(program(token_store, mesh, terms)), alone)):
            for name in want:
                np.testing.assert_allclose(got[name], want[name], rtol=1e-5, err_msg=f"{mesh}: {name} at step {step}")
    assert "nvoluntary full rematerialization" not in capfd.readouterr().err


def compiled(token_store, mesh):
    made = program(token_store, mesh, model=dict(tiny.emoji_run(token_store).model, dim=128, encoder_depth=8))
    return made, made.lower(first_example(made.run)).compile()


@pytest.mark.slow
def test_fsdp_divides_the_state_and_never_gathers_it_all(token_store):
    """Bytes of arguments of the compiled step: those of the state fall as 1/n, but for what is too small to split."""
    made, whole = compiled(token_store, "ddp")
    total = sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(made.state))
    small = sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(made.state) if x.size < sharding.MIN_FSDP_SIZE)
    batch = whole.memory_analysis().argument_size_in_bytes - total
    _, split = compiled(token_store, "fsdp")
    held = split.memory_analysis().argument_size_in_bytes - batch
    assert abs(held - ((total - small) / 8 + small)) < 0.02 * total / 8
    # Tables are gathered one by one, and blocks inside the scan over layers: nothing is as large as all blocks.
    model = made.state.params["model"]
    table, encoder = (sum(x.size for x in jax.tree.leaves(model[k])) for k in ("embed", "encoder"))
    gathered = [
        np.prod([int(n) for n in dims.split(",")])
        for dims in re.findall(r"\w+\[([\d,]+)\]\S* all-gather(?:-start)?\(", split.as_text())
    ]
    assert gathered and max(gathered) < table < encoder
    assert sharding.report(made.state, made.roles, made.mesh).count("WARNING") == 0 and set(AXES) == set(
        made.mesh.shape
    )
