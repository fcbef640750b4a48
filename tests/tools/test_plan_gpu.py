"""Plans for GPUs by XLA's compiler for them: what its programs say, what it is told, and a whole plan where it is."""

import dataclasses
import json
import subprocess
import sys
from importlib import metadata
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from configs import clip_b16
from pretrain import build, executable
from pretrain.chips import CHIPS, chip_of
from tools.plan import gpu
from tools.plan.collectives import collectives
from tools.plan.groups import groups, way
from tools.plan.hlo import Hlo
from tools.plan.measure import Plan, measure
from tools.plan.report import estimates, verdict
from tools.plan.topology import find

ROOT = Path(__file__).parents[2]

# A scan of 6 over a matrix split over the 8 GPUs of a host, its gradient summed over 8 hosts, as XLA writes it for
# H100s, cut down. JAX 0.10 writes a reduce-scatter and an all-reduce with a start, 0.12 puts operands before results.
BODY = """\
HloModule jit_f, is_scheduled=true

%body.1 (arg: (s32[], bf16[64,1024])) -> (s32[], bf16[64,1024]) {
  %all-gather-start = ((bf16[128,1024]{1,0}, bf16[128,1024]{1,0}), (bf16[1024,1024]{1,0}, bf16[1024,1024]{1,0})) \
all-gather-start(%a, %b), channel_id=1, replica_groups=FSDP, dimensions={0}, use_global_device_ids=true
  %all-gather-done = (bf16[1024,1024]{1,0}, bf16[1024,1024]{1,0}) all-gather-done(%all-gather-start)
  SUMS
}

%condition.1 (arg: (s32[], bf16[64,1024])) -> pred[] {
  ROOT %wrapped_compare = pred[] fusion(%i), kind=kLoop, calls=%wrapped_compare_computation
}

ENTRY %main (p: f32[8]) -> f32[8] {
  %while.1 = (s32[], bf16[64,1024]{1,0}) while(%tuple), condition=%condition.1, body=%body.1, \
backend_config={"known_trip_count":{"n":"6"},"known_init_step":{"init":"0","step":"1"}}
  LAST
}
"""
OLD = {
    "FSDP": "mesh['axis_0'=8,'axis_1'=1,'axis_2'=8], device_ids=([8,8]T(1,0)) {'axis_0'}",
    "SUMS": """\
  %reduce-scatter-start = ((bf16[1024,1024]{1,0}), bf16[128,1024]{1,0}) reduce-scatter-start(%c), \
replica_groups=mesh['axis_0'=8,'axis_1'=1,'axis_2'=8], device_ids=([8,8]T(1,0)) {'axis_0'}, to_apply=%add.clone
  %all-reduce-start = bf16[128,1024]{1,0} all-reduce-start(%d), replica_groups=mesh['axis_0'=8,'axis_1'=1,'axis_2'=8], \
device_ids=([8,8]T(1,0)) {'axis_2'}, use_global_device_ids=true, to_apply=%add.1.clone""",
    "LAST": """\
  %collective-permute-start = (bf16[64,1024]{1,0}, bf16[64,1024]{1,0}) collective-permute-start(%e), \
source_target_pairs={{0,63},{1,62},{62,1},{63,0}}
  %all-reduce-start.1 = f32[] all-reduce-start(%f), replica_groups=mesh['axis_0'=64,'axis_1'=1] {'axis_0'}""",
}
NEW = {
    "FSDP": "mesh['axis_0'=8,'axis_1'=8] {'axis_1'}",
    "SUMS": """\
  %reduce-scatter = bf16[128,1024]{1,0} reduce-scatter(%c), replica_groups=[8,8]<=[64], to_apply=%add.clone
  %all-reduce-start = ((bf16[128,1024]{1,0}), bf16[128,1024]{1,0}) all-reduce-start(%d), \
replica_groups=[8,8]<=[8,8]T(1,0), to_apply=%add.1.clone, output_to_operand_aliasing={{1}: (0, {})}""",
    "LAST": """\
  %collective-permute.4 = bf16[64,1024]{1,0} collective-permute(%e), source_target_pairs={{0,63},{1,62},{62,1},{63,0}}
  %all-reduce.1 = f32[] all-reduce(%f), replica_groups=mesh['data'=8,'fsdp'=8,'tensor'=1] {'data','fsdp'}""",
}


@pytest.mark.parametrize("written", [OLD, NEW], ids=["0.10", "0.12"])
def test_collectives_of_a_gpu_program(written):
    text = BODY
    for key, value in written.items():
        text = text.replace(key, value)
    found = {(c.kind, c.network, c.group): (c.count, c.sent, c.longest) for c in collectives(Hlo(text), per_host=8)}
    matrix = 2 * 1024 * 1024
    assert found == {
        ("all-gather", "NVLink", 8): (6, 6 * 2 * matrix * 7 / 8, 2 * matrix),
        ("reduce-scatter", "NVLink", 8): (6, 6 * matrix * 7 / 8, matrix),
        # One GPU a host: a group of the size of a host that is none.
        ("all-reduce", "network", 8): (6, 6 * 2 * matrix / 8 * 7 / 8, matrix / 8),
        ("collective-permute", "network", 2): (1, 2 * 64 * 1024, 2 * 64 * 1024),
        # Eight GPUs a host: each adapter carries an eighth of the ring.
        ("all-reduce", "network", 64): (1, 2 * 4 * 63 / 64 / 8, 4),
    }


@pytest.mark.parametrize(
    "written",
    [
        "replica_groups={{0,4},{1,5},{2,6},{3,7}}",
        "replica_groups=[4,2]<=[2,4]T(1,0)",
        "replica_groups=mesh['data'=2,'fsdp'=4] {'data'}",
        "replica_groups=mesh['a'=4,'b'=2], device_ids=([2,4]T(1,0)) {'b'}",
        "replica_groups=mesh['a'=4,'b'=2], device_ids=(0,4,1,5,2,6,3,7) {'b'}",
        "replica_groups=mesh['x'=8] {'x':(1)2}",
        "source_target_pairs={{0,4},{1,5},{2,6},{3,7}}",
    ],
)
def test_ways_to_write_groups(written):
    found = groups(f"%x = f32[8] all-reduce(%a), channel_id=1, {written}, to_apply=%add")
    np.testing.assert_array_equal(found, [[0, 4], [1, 5], [2, 6], [3, 7]])


def test_groups_along_several_axes_and_a_part_of_one():
    both = groups("replica_groups=mesh['data'=2,'fsdp'=2,'tensor'=2] {'data','tensor'}")
    np.testing.assert_array_equal(both, [[0, 1, 4, 5], [2, 3, 6, 7]])
    np.testing.assert_array_equal(groups("replica_groups=mesh['x'=8] {'x':(2)2}"), [[0, 2], [1, 3], [4, 6], [5, 7]])
    assert groups("%x = f32[8] all-reduce(%a), replica_groups={}") == []


def test_what_goes_between_hosts():
    """Of 16 GPUs on two hosts a ring leaves a host once; half of an all-to-all is for the other host."""
    every = "replica_groups=[1,16]<=[16]"
    assert way("all-gather", every, 8) == (16, "network", 1 / 8)
    assert way("all-to-all", every, 8) == (16, "network", 8 / 15)
    assert way("all-gather", "replica_groups=[2,8]<=[16]", 8) == (8, "NVLink", 1)
    assert way("all-gather", "replica_groups=[8,2]<=[2,8]T(1,0)", 8) == (2, "network", 1)
    assert way("all-gather", every) == (16, "ICI", 1)


def test_targets():
    """Every GPU that has a chip has one, under a name by which the chip is found."""
    chips = [c for c in CHIPS if c.kind.startswith("NVIDIA")]
    assert {c.name for c in chips} == set(gpu.TARGETS)
    for c in chips:
        assert chip_of(gpu.TARGETS[c.name].name) == c
    assert "device_memory_size: 84942979072 memory_bandwidth: 3352320000000" in gpu.describe(chip_of("NVIDIA H100"))


def test_what_is_missing(monkeypatch):
    installed = {"jaxlib": "0.10.2", "jax-cuda13-plugin": "0.10.2"}

    def version(name):
        if name not in installed:
            raise metadata.PackageNotFoundError(name)
        return installed[name]

    monkeypatch.setattr(metadata, "version", version)
    assert gpu.missing() == ["nvidia-cuda-nvcc"] and find("h100-8").lacks == ("nvidia-cuda-nvcc",)
    installed |= {"nvidia-cuda-nvcc": "13.5.37"}
    assert gpu.missing() == []
    installed |= {"jax-cuda13-plugin": "0.12.0"}
    assert gpu.missing() == ["jax-cuda13-plugin==0.10.2"], "JAX takes the plug-in of its own version alone"


def test_without_the_compiler_a_host_has_no_known_size():
    run = dataclasses.replace(build.parse(clip_b16.get_config("tiny")), mesh="hsdp")
    with pytest.raises(ValueError, match=r"mesh='hsdp': without their compiler a host .*or install nvidia-cuda-nvcc"):
        measure(run, find("h100-16")._replace(lacks=("nvidia-cuda-nvcc",)))


def test_a_report_says_what_is_an_estimate_and_what_jax_takes():
    topology = find("h100-8")._replace(lacks=())
    most = topology.chip.hbm
    plan = Plan(None, topology, "", 0, int(0.8 * most), 0.8 * most, 0, 0.0, (), None, (), 0.0, None, None)
    assert "no kernel is tuned" in estimates(plan)[0]
    assert "if JAX may take more than 75%: XLA_PYTHON_CLIENT_MEM_FRACTION=0.95" in verdict(plan)
    assert verdict(dataclasses.replace(plan, used=int(0.7 * most))).endswith("a device to spare")
    lacking = dataclasses.replace(plan, topology=topology._replace(lacks=("nvidia-cuda-nvcc",)))
    assert "compiled by XLA for the CPU" in estimates(lacking)[0] and "(nvidia-cuda-nvcc)" in estimates(lacking)[0]
    assert estimates(dataclasses.replace(plan, topology=find("v5e-16"))) == []


def test_a_step_for_another_chip_is_refused(tmp_path):
    lowered = SimpleNamespace(as_text=lambda: "the same program")
    about = {"digest": executable.digest(lowered), "jax": "0", "device": "NVIDIA H100 80GB HBM3"}
    (tmp_path / "step").write_bytes(held := json.dumps(about).encode() + b"\n")
    given = f"{tmp_path}/step@{executable.hashlib.sha256(held).hexdigest()}"
    with pytest.raises(ValueError, match="made for 'NVIDIA H100 80GB HBM3', and this is 'NVIDIA A100-SXM4-80GB'"):
        executable.load(given, lowered, [SimpleNamespace(device_kind="NVIDIA A100-SXM4-80GB")])


@pytest.mark.slow
@pytest.mark.skipif(bool(gpu.missing()), reason=f"XLA's compiler for GPUs is not installed: {', '.join(gpu.missing())}")
def test_a_plan_by_the_compiler_for_gpus(tmp_path):
    """Two hosts of eight: gathered within one, summed between them, attention by cuDNN, and kept in a file."""
    args = ["--config=configs/clip_b16.py:tiny", "--topology=h100-16", "--mesh=hsdp", f"--save={tmp_path}/step"]
    args += ["--config.model.dtype=bfloat16", "--config.model.attention=cudnn"]
    done = subprocess.run(
        [sys.executable, "-m", "tools.plan", *args], cwd=ROOT, capture_output=True, text=True, timeout=600
    )
    assert done.returncode == 0, done.stderr
    for line in (
        "mesh slice=1 data=2 fsdp=8 tensor=1",
        "ESTIMATE: compiled by XLA for these GPUs without one",
        "all-gather         over NVLink  in groups of 8",
        "all-reduce         over network in groups of 2",
        "VERDICT   fits",
        f"saved     --executable={tmp_path}/step@",
    ):
        assert line in done.stdout
    head, _, program = (tmp_path / "step").read_bytes().partition(b"\n")
    assert json.loads(head)["device"] == "NVIDIA H100 80GB HBM3"
    assert program.count(b"fmhaScaleBiasSoftmaxBackward"), "attention is cuDNN's"
