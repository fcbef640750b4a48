"""python -m tools.plan --config=configs/fourm_mod21.py:XL --topology=v5p-512 --mesh=fsdp [--config.a.b=value …]

Compiles the run's real train step for a machine that is not here and prints what a device has to hold, how fast a step
can be at best, what goes over the network, what the whole run costs, and whether it fits. TPUs are compiled for by
libtpu (`pip install '.[tpu]'`), GPUs by XLA's CPU backend for as many fake devices: their memory is an estimate.

--search tries meshes, rematerialisation and microbatches, and prints the best. --save keeps the compiled step for
`python -m pretrain --executable=FILE` on that machine, with the same versions of JAX and libtpu.
"""

import itertools
import sys

from absl import app, flags
from ml_collections import config_flags

from tools.plan import topology as topologies

CONFIG = config_flags.DEFINE_config_file("config", None, "The run, as for `python -m pretrain`.")
TOPOLOGY = flags.DEFINE_string("topology", None, "v5p-512, v5e-256, v6e-64, tpu7x-128, h100-64, …")
SLICES = flags.DEFINE_integer("slices", 1, "How many such TPU slices, joined by the data-centre network.")
MESH = flags.DEFINE_string("mesh", "", "Takes the place of config.mesh.")
UTILISATION = flags.DEFINE_float("mfu", 0.4, "MFU to reckon the cost of the run with.")
SEARCH = flags.DEFINE_boolean("search", False, "Try meshes × remat × microbatches; every one is compiled.")
SAVE = flags.DEFINE_string("save", "", "A file for the compiled step.")
flags.mark_flags_as_required(["config", "topology"])

GIB = 2**30
REMATS = ("none", "dots", "block")


def gib(n: float) -> str:
    return f"{n / GIB:.2f} GiB" if n >= 0.1 * GIB else f"{n / 2**20:.1f} MiB"


def describe(plan) -> str:
    """The whole report."""
    run, chip, count = plan.run, plan.chip, plan.topology.count
    where = f"{plan.topology.slices} × {plan.topology.name}" if plan.topology.slices > 1 else plan.topology.name
    batch = f"{run.batch_size} in {run.accum} microbatches" if run.accum > 1 else str(run.batch_size)
    lines = [f"{where}: {count} devices · batch {batch} · compiled in {plan.seconds:.0f} s", plan.report]
    lines += [f"WARNING: {text}" for text in plan.warnings]
    if plan.used is None:
        return "\n".join([*lines, verdict(plan)])
    bounds = plan.bounds()
    lines += [
        f"memory    {gib(plan.used)} of {gib(chip.hbm)} a device: state {gib(plan.state)}, temporaries "
        f"{gib(plan.temporaries)}, {'batch and code' if plan.topology.tpu else 'the rest'} "
        f"{gib(max(plan.used - plan.state - plan.temporaries, 0))}",
        f"work      {plan.flops / 1e12:,.1f} TFLOP a step without what is computed twice",
        f"step      {plan.step_seconds:.3f} s at best, if all overlaps: "
        + ", ".join(f"{name} {seconds:.3f} s" for name, seconds in bounds.items())
        + f" · MFU at most {plan.mfu:.0%}",
        f"network   {network(plan)}",
        f"run       {cost(plan)}",
        verdict(plan),
    ]
    return "\n".join(lines)


def network(plan) -> str:
    """A line a kind of collective: how many, how large, and what a device sends in them."""
    rows = [
        f"{c.kind:18} over {c.network} {f'in groups of {c.group}' if c.group else 'between slices':17} "
        f"{c.count:7,.0f} × · {c.sent / 2**20:9,.1f} MiB sent a device · largest {c.longest / 2**20:,.1f} MiB"
        for c in plan.collectives
        if c.sent >= 2**16
    ]
    return "\n          ".join(rows) or "next to nothing"


def cost(plan) -> str:
    """Days and chip-hours of the whole run, at the bound and at the MFU that is hoped for."""
    chips = plan.topology.count / (2 if plan.chip.name == "tpu7x" else 1)

    def told(seconds, what):
        days = plan.run.steps * seconds / 86400
        return f"{days:,.1f} days, {days * 24 * chips:,.0f} chip-hours {what}"

    hoped = plan.bounds()["arithmetic"] / UTILISATION.value
    slow = max(hoped, plan.step_seconds)
    reached = plan.bounds()["arithmetic"] / slow
    return (
        f"{plan.run.steps:,} steps: {told(plan.step_seconds, 'at best')}; {told(slow, f'at an MFU of {reached:.0%}')}"
    )


def verdict(plan) -> str:
    if plan.fits:
        return f"VERDICT   fits, with {gib(plan.chip.hbm - plan.used)} a device to spare"
    over = f"{gib(plan.needed)} needed of {gib(plan.chip.hbm)}"
    advice = []
    remat = plan.run.model.get("remat", "none")
    if remat in REMATS[:-1]:
        advice.append(f"--config.model.remat={REMATS[REMATS.index(remat) + 1]}")
    ways = plan.topology.count
    if plan.run.batch_size // plan.run.accum // ways > 1:
        advice.append(f"--config.accum={plan.run.accum * 2}")
    if plan.state > plan.chip.hbm / 4:
        advice.append("a mesh with more fsdp, or --config.optim.moments=bfloat16")
    return f"VERDICT   does not fit: {over}; try {' or '.join(advice) or 'more devices, or tensor parallelism'}"


def candidates(run, count):
    """(mesh, remat, accum) to try: the least remat and the largest microbatch first."""
    ways = [n for n in (count, count // 2, count // 4, count // 8, 1) if n >= 1 and count % n == 0]
    meshes = [f"fsdp={n}" if n > 1 else "ddp" for n in dict.fromkeys(ways)]
    micro = [a for a in (1, 2, 4, 8) if run.batch_size % (a * count) == 0]
    yield from itertools.product(meshes, REMATS, micro or [1])


def search(config, topology):
    """Compiles every candidate of a mesh until one fits; the fewest repeated operations and the least traffic win."""
    from pretrain import build
    from tools.plan.measure import measure

    run, found, done = build.parse(config), [], set()
    for mesh, remat, accum in candidates(run, topology.count // topology.slices):
        if mesh in done:
            continue
        config.mesh, config.model.remat, config.accum = mesh, remat, accum
        plan = measure(build.parse(config), topology)
        name = f"--mesh={mesh} --config.model.remat={remat} --config.accum={accum}"
        if not plan.fits:
            print(f"{name}: {gib(plan.needed)}, does not fit", flush=True)
            continue
        done.add(mesh)
        found.append((REMATS.index(remat), plan.step_seconds, name, plan))
        print(f"{name}: {gib(plan.used)}, step {plan.step_seconds:.3f} s at best", flush=True)
    for _, _, name, plan in sorted(found, key=lambda f: f[:2])[:3]:
        print(f"\n{name}\n{describe(plan)}")
    if not found:
        print(f"nothing of this fits {topology.name}: take more devices")


def main(argv):
    if len(argv) > 1:
        raise app.UsageError(f"unexpected arguments {argv[1:]}; config keys are set as --config.key=value")
    topology = topologies.find(TOPOLOGY.value, SLICES.value)
    topologies.prepare(topology)
    from pretrain import build
    from tools.plan.measure import measure

    config = CONFIG.value
    if MESH.value:
        config.mesh = MESH.value
    if SEARCH.value:
        return search(config, topology)
    plan = measure(build.parse(config), topology)
    print(describe(plan))
    if SAVE.value and plan.compiled is not None:
        from pretrain.executable import save

        save(SAVE.value, plan.lowered, plan.compiled)
        print(f"saved     {SAVE.value}")
    return 0 if plan.fits else 1


if __name__ == "__main__":
    app.run(lambda argv: sys.exit(main(argv)))
