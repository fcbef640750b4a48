"""python -m tools.bench_fill --config=configs/fourm_mod7.py: how full the token budgets are, fill="full" and fill="4m".

For each component of the masked objective's mixture: the share of all slots that hold a token,
and of those that the component could fill at all (its modalities have so many tokens). Synthetic examples: every
modality, texts of 10 to 100 % of their greatest length.
"""

import dataclasses

import jax
import numpy as np
from absl import app, flags

from pretrain import build, config_flag
from pretrain.models.passes import leaves
from pretrain.models.tokens import presence
from tools.synthetic import batch

CONFIG = config_flag.define("A run with an objective `masked`.")
EXAMPLES = flags.DEFINE_integer("examples", 2000, "How many synthetic examples.")
flags.mark_flags_as_required(["config"])


def fill(run, objective, examples):
    """(input, target) shares of slots used, and of slots that could be, for an objective of one component."""
    (component,) = objective.mixture
    data = batch(run.modalities, examples, seed=0)
    (masking,) = {leaf.make for leaf in leaves(objective.passes(train=True).values())}
    made = jax.jit(masking)(data, jax.random.split(jax.random.key(0), examples))
    inputs, queries = made["inputs"].tokens, made["queries"].tokens
    present = {m.name: np.asarray(presence(data, m)).sum(1) for m in run.modalities}
    seen = {
        m.name: np.asarray((inputs.modality == i) & inputs.valid).sum(1) for i, m in enumerate(run.modalities)
    }  # fmt: skip
    spans, out = {m.name: m.spans for m in run.modalities}, []
    for tokens, budget, alphas in (
        (inputs, objective.input_tokens[1], component.inputs),
        (queries, objective.target_tokens[1], component.targets),
    ):
        room = 0
        for name, alpha in alphas.items():
            if alpha > 0:
                taken = seen[name] if tokens is queries and not spans[name] else 0
                room = room + present[name] - taken
        used = np.asarray(tokens.valid).sum(1)
        out.append((used.sum() / (budget * examples), np.minimum(used, room).sum() / np.minimum(budget, room).sum()))
    return out


def main(argv):
    if len(argv) > 1:
        raise app.UsageError(f"unexpected arguments {argv[1:]}")
    run = build.parse(CONFIG.value)
    objective = build.objectives(run)["masked"]
    print("fill  component   input slots: used, of possible   target slots: used, of possible")
    for mode in ("full", "4m"):
        rows = []
        for i, component in enumerate(objective.mixture):
            alone = dataclasses.replace(objective, mixture=(dataclasses.replace(component, sources=()),), fill=mode)
            rows.append(fill(run, alone, EXAMPLES.value))
            print_row(mode, i, rows[-1])
        print_row(mode, "all", np.average(np.asarray(rows), axis=0, weights=[c.weight for c in objective.mixture]))


def print_row(mode, component, shares):
    (a, b), (c, d) = shares
    print(f"{mode:5} {component:>9}   {a:16.1%} {b:13.1%}   {c:17.1%} {d:13.1%}", flush=True)


if __name__ == "__main__":
    app.run(main)
