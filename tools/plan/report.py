"""A plan as text for people."""

from pretrain.sharding import gib

REMATS = ("none", "dots", "block")


def describe(plan, utilisation: float) -> str:
    """The whole report; utilisation: the MFU to reckon the cost with."""
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
        f"run       {cost(plan, utilisation)}",
        verdict(plan),
    ]
    return "\n".join(lines)


def network(plan) -> str:
    """A line a kind of collective: how many, how large, and what a device sends in them."""
    names = {} if plan.topology.tpu else {"ICI": "network"}
    rows = [
        f"{c.kind:18} over {names.get(c.network, c.network)} "
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
