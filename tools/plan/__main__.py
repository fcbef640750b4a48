"""python -m tools.plan --config=configs/fourm_mod21.py:XL --topology=v5p-512 --mesh=fsdp [--config.a.b=value …]

Compiles the run's real train step for a machine that is not here and prints what a device has to hold, how fast a step
can be at best, what goes over the network, what the whole run costs, and whether it fits. TPUs are compiled for by
libtpu (`pip install '.[tpu]'`), GPUs by XLA's CPU backend for as many fake devices: their memory is an estimate, and
--topology=local gives that of the accelerators which are here, by their own compiler.

--search tries meshes, rematerialisation and microbatches, and prints the best. --save keeps the compiled step for
`python -m pretrain --executable=FILE@SHA256` on that machine, with the same versions of JAX and libtpu. Such a file is
run: take none that you did not make.
"""

import itertools
import sys

from absl import app, flags

from pretrain import config_flag
from tools.plan import topology as topologies

CONFIG = config_flag.define("The run, as for `python -m pretrain`.")
TOPOLOGY = flags.DEFINE_string("topology", None, "v5p-512, v5e-256, v6e-64, tpu7x-128, h100-64, …, local.")
SLICES = flags.DEFINE_integer("slices", 1, "How many such TPU slices, joined by the data-centre network.")
MESH = flags.DEFINE_string("mesh", "", "Takes the place of config.mesh.")
UTILISATION = flags.DEFINE_float("mfu", 0.4, "MFU to reckon the cost of the run with.")
SEARCH = flags.DEFINE_boolean("search", False, "Try meshes × remat × microbatches; every one is compiled.")
SAVE = flags.DEFINE_string("save", "", "A file for the compiled step.")
flags.mark_flags_as_required(["config", "topology"])


def candidates(run, count, remats):
    """(mesh, remat, accum) to try: the least remat and the largest microbatch first."""
    ways = [n for n in (count, count // 2, count // 4, count // 8, 1) if n >= 1 and count % n == 0]
    meshes = [f"fsdp={n}" if n > 1 else "ddp" for n in dict.fromkeys(ways)]
    micro = [a for a in (1, 2, 4, 8) if run.batch_size % (a * count) == 0]
    yield from itertools.product(meshes, remats, micro or [1])


def search(config, topology):
    """Compiles every candidate of a mesh until one fits; the fewest repeated operations and the least traffic win."""
    from pretrain import build
    from tools.plan.measure import measure
    from tools.plan.report import REMATS, describe, gib

    run, found, done = build.parse(config), [], set()
    for mesh, remat, accum in candidates(run, topology.count // topology.slices, REMATS):
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
        print(f"\n{name}\n{describe(plan, UTILISATION.value)}")
    if not found:
        print(f"nothing of this fits {topology.name}: take more devices")


def main(argv):
    if len(argv) > 1:
        raise app.UsageError(f"unexpected arguments {argv[1:]}; config keys are set as --config.key=value")
    topology = topologies.find(TOPOLOGY.value, SLICES.value)
    topologies.prepare(topology)
    from pretrain import build
    from tools.plan.measure import measure
    from tools.plan.report import describe

    config = CONFIG.value
    if MESH.value:
        config.mesh = MESH.value
    if SEARCH.value:
        return search(config, topology)
    plan = measure(build.parse(config), topology)
    print(describe(plan, UTILISATION.value))
    if SAVE.value and plan.compiled is not None:
        from pretrain.executable import save

        print(f"saved     --executable={save(SAVE.value, plan.lowered, plan.compiled)}")
    return 0 if plan.fits else 1


if __name__ == "__main__":
    app.run(lambda argv: sys.exit(main(argv)))
