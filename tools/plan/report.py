"""A plan as text for people."""

from pretrain.sharding import gib

REMATS = ("none", "dots", "block")
POOL = 0.75  # of a GPU's memory: what JAX takes by default


def describe(plan, utilisation: float) -> str:
    """The whole report; utilisation: the MFU to reckon the cost with."""
    run, chip, count = plan.run, plan.chip, plan.topology.count
    where = f"{plan.topology.slices} × {plan.topology.name}" if plan.topology.slices > 1 else plan.topology.name
    batch = f"{run.batch_size} in {run.accum} microbatches" if run.accum > 1 else str(run.batch_size)
    lines = [f"{where}: {count} devices · batch {batch} · compiled in {plan.seconds:.0f} s", plan.report]
    lines += [f"ESTIMATE: {text}" for text in estimates(plan)] + [f"WARNING: {text}" for text in plan.warnings]
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
        *([f"clock     {clock(plan)}"] if plan.clock else []),
        f"network   {network(plan)}",
        f"run       {cost(plan, utilisation)}",
        verdict(plan),
    ]
    return "\n".join(lines)


def clock(plan) -> str:
    """Where the time of a step goes by the compiler's own estimate."""
    c, sent = plan.clock, sum(s for n, s in plan.bounds().items() if n not in ("arithmetic", "memory"))

    def shares(what, most):
        found = [(name, n / c.cycles) for name, n in c.by(what).items()]
        return " · ".join(f"{name} {share:.0%}" for name, share in found[:most] if share >= 0.005)

    kernels = c.by("kind").get("kernels", 0.0) / c.cycles
    again = sum(o.cycles for o in c.operations if o.again) / c.cycles
    mfu = plan.bounds()["arithmetic"] / c.seconds
    rows = [
        f"{c.seconds:.3f} s by the compiler's estimate ({c.cycles / 1e6:,.1f} M cycles at {c.hertz / 1e9:.2f} GHz): "
        f"MFU {mfu:.0%}; {c.seconds + sent:.3f} s if nothing of the network overlaps",
        f"by part: {shares('part', 12)}",
        f"by kind: {shares('kind', 6)} · computed again {again:.0%}",
        *([f"kernels ({kernels:.0%}) by the cost that they declare, at the chip's peaks"] if kernels else []),
        *(dear(o, c) for o in c.dearest()),
        "an estimate of libtpu's cost model, never checked on hardware; loops whose length only data tell count as",
        "long as one may expect, or once; `python -m tools.bench_step` on a TPU prints what a step takes beside it",
    ]
    return "\n          ".join(rows)


def dear(operation, c) -> str:
    """A line of one of the dearest operations."""
    o = operation
    again = ", again" if o.again else ""
    source = "/".join(o.source.split("/")[-3:])
    return f"{o.cycles / c.cycles:6.1%} {o.times:4.0f} × {o.part:20} {o.kind + again:16} {o.result:24} {source}"


def compare(first, second) -> str:
    """Two plans side by side: memory, bounds, and cycles by part and by kind."""
    rows = [("", "config", "compared", "ratio")]

    def row(name, a, b, show):
        rows.append((name, show(a), show(b), f"{b / a:.2f}" if a else ""))

    row("memory a device", first.needed, second.needed, gib)
    row("temporaries", first.temporaries, second.temporaries, gib)
    row("step at best, s", first.step_seconds, second.step_seconds, "{:.4f}".format)
    for name in dict.fromkeys([*first.bounds(), *second.bounds()]):
        row(f"  {name}, s", first.bounds().get(name, 0.0), second.bounds().get(name, 0.0), "{:.4f}".format)
    if first.clock and second.clock:
        million = lambda n: f"{n / 1e6:,.2f}"
        row("cycles, M", first.clock.cycles, second.clock.cycles, million)
        for what in ("kind", "part"):
            a, b = first.clock.by(what), second.clock.by(what)
            for name in dict.fromkeys([*a, *b]):
                if max(a.get(name, 0), b.get(name, 0)) >= 0.005 * first.clock.cycles:
                    row(f"  {name}", a.get(name, 0.0), b.get(name, 0.0), million)
    return "\n".join(f"{name:26} {a:>14} {b:>14} {ratio:>7}" for name, a, b, ratio in rows)


def estimates(plan) -> list[str]:
    """What the figures of this compiler leave open."""
    topology = plan.topology
    if topology.tpu or topology.here:
        return []
    if topology.lacks:
        return [
            f"compiled by XLA for the CPU, as XLA's compiler for GPUs is not installed ({', '.join(topology.lacks)}): "
            "pip install --constraint constraints.txt -e '.[gpu_plan]'"
        ]
    return [
        "compiled by XLA for these GPUs without one: no kernel is tuned, what cuDNN and NCCL take for themselves is "
        "not counted, and XLA computes again by itself what it thinks too much for the memory"
    ]


def network(plan) -> str:
    """A line a kind of collective: how many, how large, and what a device sends in them."""
    rows = [
        f"{c.kind:18} over {c.network:{7 if plan.topology.per_host else 3}} "
        f"{f'in groups of {c.group}' if c.group else 'between slices':17} "
        f"{c.count:7,.0f} × · {c.sent / 2**20:9,.1f} MiB sent a device · largest {c.longest / 2**20:,.1f} MiB"
        for c in plan.collectives
        if c.sent >= 2**16
    ]
    return "\n          ".join(rows) or "next to nothing"


def cost(plan, utilisation: float) -> str:
    """Days and chip-hours of the whole run, at the bound and at the MFU that is hoped for."""
    chips = plan.topology.count / (2 if plan.chip.name == "tpu7x" else 1)

    def told(seconds, what):
        days = plan.run.steps * seconds / 86400
        return f"{days:,.1f} days, {days * 24 * chips:,.0f} chip-hours {what}"

    hoped = plan.bounds()["arithmetic"] / utilisation
    slow = max(hoped, plan.step_seconds)
    reached = plan.bounds()["arithmetic"] / slow
    return (
        f"{plan.run.steps:,} steps: {told(plan.step_seconds, 'at best')}; {told(slow, f'at an MFU of {reached:.0%}')}"
    )


def verdict(plan) -> str:
    if plan.fits:
        told = f"VERDICT   fits, with {gib(plan.chip.hbm - plan.used)} a device to spare"
        pooled = not plan.topology.per_host or plan.used <= POOL * plan.chip.hbm
        return told if pooled else f"{told}, if JAX may take more than {POOL:.0%}: XLA_PYTHON_CLIENT_MEM_FRACTION=0.95"
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
