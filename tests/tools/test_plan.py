"""Plans: what the text of a program tells, what a machine can do, and a whole plan for GPUs that are not here."""

import os
import re
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from configs.systems import irra, structure_clip
from pretrain import build
from pretrain.chips import chip_of
from pretrain.sharding import make_mesh, parse_mesh
from tools.plan.clock import clock
from tools.plan.collectives import Collective, collectives
from tools.plan.hlo import Hlo
from tools.plan.measure import example
from tools.plan.topology import find

ROOT = Path(__file__).parents[2]

# As XLA writes programs for TPUs, cut down to what matters: a scan of 24 whose body gathers, a reduce-scatter that is
# a fusion, one collective of each way to list its groups, and a transfer between slices.
TPU = """\
HloModule jit_step

%all-reduce-scatter.1 (input: bf16[64,32]) -> bf16[4,32] {
  %all-reduce.9 = bf16[64,32]{1,0:T(8,128)} all-reduce(%input), replica_groups={{0,1,2,3},{4,5,6,7}}, to_apply=%add
  ROOT %dynamic-slice.1 = bf16[4,32]{1,0} dynamic-slice(%all-reduce.9, %i, %zero), dynamic_slice_sizes={4,32}
}

%body.1 (arg: (s32[], bf16[8,128])) -> (s32[], bf16[8,128]) {
  %all-gather.1 = bf16[1,128,64]{2,1,0:T(8,128)(2,1)} all-gather(%x), replica_groups=mesh['data'=2,'fsdp'=4] {'fsdp'}
  %fusion.1 = bf16[4,32]{1,0} fusion(%y), kind=kCustom, calls=%all-reduce-scatter.1
}

%condition.1 (arg: (s32[], bf16[8,128])) -> pred[] {
  %constant.1 = s32[]{:T(128)} constant(24)
  ROOT %compare.1 = pred[] compare(%i, %constant.1), direction=LT
}

ENTRY %main (p: f32[8]) -> f32[8] {
  %while.1 = (s32[], bf16[8,128]) while(%tuple), condition=%condition.1, body=%body.1
  %all-reduce.2 = (f32[16]{0}, f32[16]{0}) all-reduce(%a, %b), replica_groups=[1,8]<=[8], to_apply=%add
  %collective-permute-start = (f32[64], f32[64], u32[], u32[]) collective-permute-start(%c), source_target_pairs={{0,1}}
  %send.1 = (f32[256]{0}, u32[], token[]) send(%d, %t), frontend_attributes={_xla_megascale_transfer_type="ALL_REDUCE"}
}
"""


@pytest.mark.parametrize("system", [irra, structure_clip], ids=lambda s: s.__name__)
def test_an_example_is_as_the_pipeline_makes_it(system):
    """With labels, and with what transforms add."""
    run = build.parse(system.get_config("tiny"))
    real = build.encoder(run, train=True)(build.source(run.data, "train")[0], np.random.default_rng(0))
    shapes = lambda tree: {jax.tree_util.keystr(path): x.shape for path, x in jax.tree_util.tree_leaves_with_path(tree)}
    assert shapes(example(run)) == shapes(jax.tree.map(np.asarray, real))


def test_collectives_of_a_program():
    found = {(c.kind, c.network): c for c in collectives(Hlo(TPU))}
    assert found["all-gather", "ICI"] == Collective("all-gather", 4, "ICI", 24, 24 * 128 * 64 * 2 * 3 / 4, 128 * 64 * 2)
    assert found["reduce-scatter", "ICI"][3:5] == (24, 24 * 64 * 32 * 2 * 3 / 4)
    assert found["all-reduce", "ICI"] == Collective("all-reduce", 8, "ICI", 1, 128 * 2 * 7 / 8, 128)
    assert found["collective-permute", "ICI"].sent == 256
    assert found["all-reduce", "DCN"] == Collective("all-reduce", 0, "DCN", 1, 1024, 1024)
    assert len(found) == 5


def test_collectives_of_a_real_program():
    """A matrix over eight devices times a whole one, summed: one gather, and a sum over all."""
    mesh = make_mesh(parse_mesh("fsdp"))
    split = NamedSharding(mesh, P("fsdp"))
    f = jax.jit(lambda w, x: (x @ w).sum(), in_shardings=(split, split))
    text = f.lower(jax.ShapeDtypeStruct((64, 32), "float32"), jax.ShapeDtypeStruct((16, 64), "float32")).compile()
    found = {c.kind: c for c in collectives(Hlo(text.as_text()))}
    assert found["all-gather"].sent == 64 * 32 * 4 * 7 / 8 and found["all-gather"].group == 8
    assert found["all-reduce"].sent == 4 * 2 * 7 / 8


# What libtpu writes of time: a loop of twelve over a product whose shape is that of a block's MLP, a loop whose length
# nobody knows beforehand, a branch for the optimizer, and a kernel that declares its cost.
CLOCK = """\
HloModule jit_step

FileNames
1 "/code/pretrain/models/layers.py"
2 "/code/pretrain/optim.py"

FunctionNames
1 "Linear.__call__"

FileLocations
1 {file_name_id=1 function_name_id=1 line=43 end_line=43 column=1 end_column=9}
2 {file_name_id=2 function_name_id=1 line=99 end_line=99 column=1 end_column=9}

StackFrames
1 {file_location_id=1 parent_frame_id=1}
2 {file_location_id=2 parent_frame_id=1}

%fused.1 (p: bf16[16,8]) -> bf16[16,8] {
  %p = bf16[16,8]{1,0} parameter(0)
  ROOT %convolution.1 = bf16[16,8]{1,0} convolution(%p, %p), dim_labels=bf_io->bf
}

%body.1 (arg: (s32[], bf16[16,8])) -> (s32[], bf16[16,8]) {
  %fusion.1 = bf16[16,8]{1,0:T(8,128)} fusion(%x), kind=kOutput, calls=%fused.1, metadata={op_name="jit(step)/transpose(jvp(encoder))/while/body/checkpoint/rematted_computation/mlp/dot_general" stack_frame_id=1}, backend_config={"window_config":{"estimated_cycles":"1000"}}
}

%condition.1 (arg: (s32[], bf16[16,8])) -> pred[] {
  %constant.1 = s32[]{:T(128)} constant(12)
  ROOT %compare.1 = pred[] compare(%i, %constant.1), direction=LT
}

%body.2 (arg: (s32[], f32[8])) -> (s32[], f32[8]) {
  %copy.1 = f32[8]{0} copy(%x), metadata={op_name="jit(step)/jvp(head)/shard_map/rounds_3/while/body/jit(_take)/gather"}, backend_config={"window_config":{"estimated_cycles":"7"}}
}

%condition.2 (arg: (s32[], f32[8])) -> pred[] {
  ROOT %compare.2 = pred[] compare(%i, %n), direction=LT
}

%skip (arg: f32[8]) -> f32[8] {
  %copy.2 = f32[8]{0} copy(%x), backend_config={"window_config":{"estimated_cycles":"1"}}
}

%update (arg: f32[8]) -> f32[8] {
  %multiply.1 = f32[8]{0} multiply(%x, %x), metadata={op_name="jit(step)/optimizer/cond/branch_1_fun/mul" stack_frame_id=2}, backend_config={"window_config":{"estimated_cycles":"50"}}
}

ENTRY %main (p: f32[8]) -> f32[8] {
  %while.1 = (s32[], bf16[16,8]) while(%tuple), condition=%condition.1, body=%body.1
  %while.2 = (s32[], f32[8]) while(%tuple), condition=%condition.2, body=%body.2, metadata={op_name="jit(step)/jvp(head)/shard_map/rounds_3/while"}
  %conditional.1 = f32[8]{0} conditional(%finite, %p, %p), branch_computations={%skip, %update}
  %broadcast.1 = f32[8]{0} broadcast(%zero), dimensions={}, backend_config={"window_config":{"estimated_cycles":"9"}}
  %kernel.1 = bf16[16,8]{1,0} custom-call(%p), custom_call_target="tpu_custom_call", backend_config={"cost_estimate":{"flops":1970000,"bytes_accessed":1}}
}
"""  # noqa: E501


def test_the_compilers_clock():
    found = clock(Hlo(CLOCK), find("v5e-8").chip, {"encoder", "head", "optimizer"})
    assert found.by("part") == {"encoder mlp": 12_000, "unnamed": 24, "optimizer": 50, "head": 21}
    assert found.by("kind") == {"products": 12_000, "the rest": 50, "copies": 21, "kernels": 15, "zeros": 9}
    assert found.by("again") == {True: 12_000, False: 95}
    dearest, second = found.dearest(2)
    assert (dearest.name, dearest.times, dearest.result) == ("fusion.1", 12, "bf16[16,8]")
    assert dearest.source == "/code/pretrain/models/layers.py:43" and second.source == "/code/pretrain/optim.py:99"
    twice = found._replace(operations=(*found.operations, found.operations[0]._replace(name="fusion.2")))
    assert (twice.dearest(1)[0].times, twice.dearest(1)[0].cycles) == (24, 24_000), "a block that is written out"
    assert found.seconds == pytest.approx(12_095 / 1.5e9)
    assert clock(Hlo(TPU), find("v5e-8").chip, ()) is None


def test_topologies():
    v5p = find("v5p-512", slices=2)
    assert (v5p.count, v5p.tpu.shape, v5p.chip.name) == (512, "4x8x8", "v5p")
    assert find("v5e-16").count == 16 and find("tpu7x-128").count == 128 and find("h100-24").count == 24
    for name, slices, message in (
        ("v5p-500", 1, "no such slice; known are"),
        ("v9-8", 1, "topology='v9-8': write KIND-SIZE with KIND one of v4, v5e"),
        ("h100-many", 1, "a GPU's the number of them"),
        ("h100-12", 1, "topology='h100-12': more than 8 GPUs are whole hosts"),
        ("h100-8", 2, "slices=2: are of TPUs"),
        ("v5e-16", 0, "slices=0: must be at least 1"),
        ("local", 1, "topology='local': of 'cpu' it is not known what it can do; there are v4"),
    ):
        with pytest.raises(ValueError, match=message):
            find(name, slices)


def test_the_devices_that_are_here(monkeypatch):
    """A GPU's name, which this machine lends to its fake devices."""
    monkeypatch.setattr("tools.plan.topology.chip_of", lambda kind: chip_of("NVIDIA H100 80GB HBM3"))
    here = find("local")
    assert (here.chip.name, here.count, here.tpu) == ("h100", 8, None) and here.devices() == jax.devices()


def plan(*args):
    env = {k: v for k, v in os.environ.items() if k not in ("XLA_FLAGS", "JAX_PLATFORMS")}
    command = [sys.executable, "-m", "tools.plan", *args]
    return subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, timeout=300)


@pytest.mark.slow
def test_a_plan_for_gpus():
    other = "batch_size=32,model.unroll=true"
    done = plan("--config=configs/clip_b16.py:tiny", "--topology=h100-4", "--mesh=fsdp", f"--compare={other}")
    assert done.returncode == 0, done.stderr
    assert f"compared with {other}" in done.stdout
    ratio = re.search(r"^temporaries .* (\S+)$", done.stdout, re.MULTILINE)[1]  # of half as many examples
    assert 0 < float(ratio) < 1
    for line in (
        "h100-4: 4 devices · batch 64 · compiled in",
        "mesh slice=1 data=1 fsdp=4 tensor=1",
        "a device: state",
        "ESTIMATE: compiled by XLA for ",
        "all-gather         over NVLink  in groups of 4",
        "60 steps:",
        "VERDICT   fits",
    ):
        assert line in done.stdout


@pytest.mark.parametrize(
    "compare, message",
    [
        ("model.remta=none", "config.model.remta='none': unknown key; did you mean 'remat'?"),
        ("modle.remat=none", "--compare=modle.remat=none: config has no 'modle.remat' with keys inside"),
        ("configs/clib_b16.py", "no such file; give FILE.py or FILE.py:ARGUMENT"),
    ],
)
def test_what_is_wrong_in_a_comparison_is_said_before_anything_is_compiled(compare, message):
    done = plan("--config=configs/clip_b16.py:tiny", "--topology=h100-4", f"--compare={compare}")
    assert done.returncode and message in done.stdout + done.stderr and "compiled in" not in done.stdout


def test_a_plan_without_libtpu_says_how_to_get_it():
    done = plan("--config=configs/clip_b16.py:tiny", "--topology=v5e-8")
    assert "VERDICT   fits" in done.stdout or "compiling for TPUs needs libtpu, which is not installed" in done.stderr
