"""python -m tools.systems [--check]: the pages of docs/systems, from the configs of the systems and what was measured.

`docs/systems/NAME.md` of every file of `configs/systems`, and `README.md`, the table of all 82 systems. Their rows are
in `tools/systems.json`; what came out of an experiment in `tools/experiments/results`. Run it after either changes;
--check only says what would change, and fails if anything would.
"""

import argparse
import importlib
import itertools
import json
import sys
from pathlib import Path

from pretrain.phases import stages
from tools.experiments.common import RESULTS, mean_sd

ROOT = Path(__file__).parents[1]
PAGES = ROOT / "docs" / "systems"
HEAD = """# Systems

What this project carries of 82 published systems. Written by `python -m tools.systems`; do not edit.

A system *works* if its config trains, its formula is tested against an independent writing, and its claim was tried
with seeds and a control: *holds*, *weak* or *refuted* says how that came out here, at the size of a CPU. It is
*approximate* if something of it could not be confirmed or is not as published; its page says what. *Outside* says why.
The arXiv ids of the theses, 62 and 72, could not be confirmed.

| | system | arXiv | carried as | state | what came out, or why not |
|---|---|---|---|---|---|
"""


def rows() -> list[dict]:
    """{number, name, title, arxiv, kind, outside} of every system; name "" and a reason of those left outside."""
    return json.loads((ROOT / "tools" / "systems.json").read_text())


def config_of(row: dict):
    """The module of a system's config; None if there is none."""
    if not row["name"] or not (ROOT / "configs" / "systems" / f"{row['name']}.py").exists():
        return None
    return importlib.import_module(f"configs.systems.{row['name']}")


def results_of(row: dict, claim) -> list[dict]:
    """What was measured of a system; of its claim's own experiment first."""
    found = {p.stem: json.loads(p.read_text()) for p in sorted(RESULTS.glob("*.json"))}
    mine = [name for name, result in found.items() if row["number"] in result.get("systems", ())]
    return [found[name] for name in sorted(mine, key=lambda name: (name != claim.experiment, name))]


def state(row: dict) -> tuple[str, str]:
    """(works, approximate, outside or not yet; what to say of it)."""
    system = config_of(row)
    if row["outside"]:
        return "outside", row["outside"]
    if system is None:
        return "not yet", ""
    if not (RESULTS / f"{system.CLAIM.experiment}.json").exists():
        return "not yet", "its experiment has not been run"
    return "approximate" if system.APPROXIMATE else "works", results_of(row, system.CLAIM)[0]["verdict"]


def table() -> str:
    lines = []
    for row in rows():
        title = f"[{row['title']}]({row['name']}.md)" if config_of(row) else row["title"]
        lines.append(f"| {row['number']} | {title} | {arxiv(row)} | {row['kind']} | {' | '.join(state(row))} |")
    return HEAD + "\n".join(lines) + "\n"


def arxiv(row: dict, before: str = "") -> str:
    return f"[{before}{row['arxiv']}](https://arxiv.org/abs/{row['arxiv']})"


def page(row: dict, system) -> str:
    claim, about = system.CLAIM, [" ".join(p.split()) for p in system.__doc__.strip().split("\n\n")]
    carried = next(p for p in about if p.startswith("Carried:")).removeprefix("Carried:").strip()
    more = [p for p in about[1:] if not p.startswith("Carried:")]
    results = "\n".join(map(measured, results_of(row, claim))) or "It has not been run.\n"
    lists = {"Approximate": list(system.APPROXIMATE) or ["Nothing that we know of."], "Left out": [claim.out]}
    config, full, tiny = (f"configs/systems/{row['name']}.py", *(stages(system.get_config(a)) for a in ("", "tiny")))
    return f"""# {row["title"]}

{arxiv(row, "arXiv ")} · system {row["number"]} of [82](README.md) · {state(row)[0]}

**Claim.** {claim.says}

**Carried.** {carried[0].upper()}{carried[1:]}

**Formula.** {claim.formula}

## Run it

{"".join(f"{p}{chr(10)}{chr(10)}" for p in more)}```sh
{first(system, "")}# At full size: {length(full)}.
python -m pretrain --config={config} --workdir=runs/{row["name"]}
{first(system, "tiny")}# On the emoji corpus: {length(tiny)}.
python -m pretrain --config={config}:tiny --workdir=runs/{row["name"]}_tiny
python -m pretrain.evals --checkpoint={"/".join(filter(None, (f"runs/{row['name']}_tiny", tiny[-1][0])))}
```

## What came out

What has to come out: {claim.gate} Control: {claim.control}. The formula is tested by `{claim.test}`.

{results}
""" + "\n".join(f"## {title}\n\n" + "".join(f"- {line}\n" for line in lines) for title, lines in lists.items())


def length(phases: list) -> str:
    """How many steps of how many examples a run has; of one in phases, those of each."""
    every = [f"{c.steps:,} steps of {c.batch_size:,}" for _, c in phases]
    runs = [(what, len(list(same))) for what, same in itertools.groupby(every)]
    return ", then ".join(f"{count} phases of {what}" if count > 1 else what for what, count in runs)


def first(system, arg: str) -> str:
    """The commands for what a run reads of others."""
    runs = getattr(system, "FIRST", {}).get(arg, {})
    return "".join(
        f"# Before it, what it reads:\npython -m pretrain --config={config} --workdir={workdir}\n"
        for workdir, config in runs.items()
    )


def measured(result: dict) -> str:
    metrics = list(next(iter(result["conditions"].values())))
    head = "| | " + " | ".join(metrics) + " |\n|" + "---|" * (len(metrics) + 1)
    body = [
        f"| {name} | " + " | ".join(mean_sd(values[m]) for m in metrics) + " |"
        for name, values in result["conditions"].items()
    ]
    gates = "".join(
        f"- *{g['verdict']}*: {g['says']}: {g['metric']} of {g['condition']}"
        + (f" less {g['control']}'s" if g["control"] else "")
        + f", {g['sign'] * g['mean']:+.3f} (standard error {g['standard_error'] or 0:.3f})\n"
        for g in result["gates"]
    )
    machine = result["machine"]
    seeds = f"mean ± standard deviation of {len(result['seeds'])} seeds"
    return f"""**{result["verdict"]}**: `{result["command"]}`: {result["title"]}; {seeds}.

{head}
{chr(10).join(body)}

{gates}
JAX {machine["jax"]} on {machine["cpus"]} {machine["backend"]} cores.
"""


def pages() -> dict[str, str]:
    """{file of docs/systems: what it should hold}."""
    made = {f"{row['name']}.md": page(row, system) for row in rows() if (system := config_of(row))}
    return {"README.md": table()} | made


def stale() -> list[str]:
    """Files of docs/systems that are not what would be written, or should not be there."""
    wanted, found = pages(), {p.name: p.read_text() for p in PAGES.glob("*.md")}
    return sorted(name for name in wanted.keys() | found.keys() if wanted.get(name) != found.get(name))


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="write nothing; fail if anything would change")
    args = parser.parse_args(argv)
    changed = stale()
    if args.check:
        sys.exit(f"docs/systems: {', '.join(changed)}: run python -m tools.systems" if changed else 0)
    PAGES.mkdir(parents=True, exist_ok=True)
    wanted = pages()
    for name in changed:
        if name in wanted:
            (PAGES / name).write_text(wanted[name])
        else:
            (PAGES / name).unlink()
    print(f"docs/systems: {len(changed)} of {len(wanted)} files written")


if __name__ == "__main__":
    main()
