"""python -m tools.plan --config=configs/fourm_mod21.py:XL --topology=v5p-512 --mesh=fsdp [--config.a.b=value …]

Compiles the run's real train step for a machine that is not here and prints what a device has to hold, how fast a step
can be at best, what goes over the network, what the whole run costs, and whether it fits. TPUs are compiled for by
libtpu (`pip install '.[tpu]'`), GPUs by XLA's compiler for them (`'.[gpu_plan]'`, or `'.[cuda13]'`), neither of which
needs one. Without the latter XLA's CPU backend compiles for as many fake devices, a rougher estimate; --topology=local
is for the accelerators that are here.

For TPUs it also tells the compiler's own clock: what libtpu reckons that each operation takes, by part and by kind.
--compare=model.unroll=true,model.remat=dots lays the plan of the config with these keys beside that of the config.

--search tries meshes, rematerialisation and microbatches, and prints the best. --save keeps the compiled step for
`python -m pretrain --executable=FILE@SHA256` on that machine, with the same JAX and libtpu, or JAX and its
CUDA plug-in. Such a file is run: take none that you did not make.
"""

import copy
import itertools
import json
import sys

from absl import app, flags
from ml_collections import ConfigDict

from pretrain import config_flag
from tools.plan import topology as topologies

CONFIG = config_flag.define("The run, as for `python -m pretrain`.")
TOPOLOGY = flags.DEFINE_string("topology", None, "v5p-512, v5e-256, v6e-64, tpu7x-128, h100-64, …, local.")
SLICES = flags.DEFINE_integer("slices", 1, "How many such TPU slices, joined by the data-centre network.")
MESH = flags.DEFINE_string("mesh", "", "Takes the place of config.mesh.")
UTILISATION = flags.DEFINE_float("mfu", 0.4, "MFU to reckon the cost of the run with.")
SEARCH = flags.DEFINE_boolean("search", False, "Try meshes × remat × microbatches; every one is compiled.")
COMPARE = flags.DEFINE_string(
    "compare", "", "KEY=VALUE,… of the config, or another config file as it is: both plans are laid side by side."
)
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


def other_config(config, text: str):
    """The config that `--compare` names: a file, or keys of this one with other values. UsageError for bad ones."""
    if "=" not in text:
        return flags.FLAGS["config"].parser.parse(text)
    other = copy.deepcopy(config)
    for item in text.split(","):
        key, _, value = item.partition("=")
        try:
            value = json.loads(value)
        except ValueError:
            pass  # a word
        *parents, last = key.split(".")
        at = other
        for name in parents:
            at = at.get(name) if isinstance(at, ConfigDict) else None
        if not isinstance(at, ConfigDict):
            raise app.UsageError(f"--compare={text}: config has no {key!r} with keys inside: set one that it has")
        with at.ignore_type():
            at[last] = value
    return other


def plan_phases(config, topology) -> int:
    """Plans every phase; 1 if one does not fit."""
    from pretrain import build
    from pretrain.phases import split
    from tools.plan.measure import measure
    from tools.plan.report import describe

    if SAVE.value:
        raise app.UsageError("--save: every phase of this config has a step of its own")
    plans = {folder: measure(build.parse(c), topology) for folder, c in split(config)}
    for folder, plan in plans.items():
        print(f"-- phase {folder}\n{describe(plan, UTILISATION.value)}")
    return 0 if all(plan.fits for plan in plans.values()) else 1


def main(argv):
    if len(argv) > 1:
        raise app.UsageError(f"unexpected arguments {argv[1:]}; config keys are set as --config.key=value")
    topology = topologies.find(TOPOLOGY.value, SLICES.value)
    topologies.prepare(topology)
    from pretrain import build
    from tools.plan.measure import measure
    from tools.plan.report import compare, describe

    config = CONFIG.value
    if MESH.value:
        config.mesh = MESH.value
    if SEARCH.value and "phases" in config:
        raise app.UsageError("--search: it plans one step, and every phase of this config has one of its own")
    if COMPARE.value and (SEARCH.value or "phases" in config):
        raise app.UsageError("--compare: it plans one step; leave --search out, and take no config with phases")
    if SEARCH.value:
        return search(config, topology)
    if "phases" in config:
        return plan_phases(config, topology)
    other = other_config(config, COMPARE.value) if COMPARE.value else config
    if MESH.value:
        other.mesh = MESH.value
    run, compared = build.parse(config), build.parse(other)
    build.objectives(compared)  # what is wrong in it is said before the first is compiled
    plan = measure(run, topology)
    print(describe(plan, UTILISATION.value))
    if COMPARE.value:
        print(f"\ncompared with {COMPARE.value}\n{compare(plan, measure(compared, topology))}")
    if SAVE.value and plan.compiled is not None:
        from pretrain.executable import save

        print(f"saved     --executable={save(SAVE.value, plan.lowered, plan.compiled)}")
    return 0 if plan.fits else 1


if __name__ == "__main__":
    app.run(lambda argv: sys.exit(main(argv)))
