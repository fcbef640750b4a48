"""python -m tools.experiments.symile_xor: does Symile learn what no pair of modalities knows?

a, b and c are 5 bits each, c = a XOR b in a share of the examples and c = a in the others: of the XOR examples any two
modalities say nothing of each other. Linear towers over one-hot vectors, all 1024 (a, b) in the data. Given a and b, 32
candidates for c: Symile (arXiv 2411.01053, section 5.1) ranks them by ⟨z_a ∘ z_b, z_c⟩, pairwise CLIP over the three
edges by ⟨z_a, z_c⟩ + ⟨z_b, z_c⟩. Accuracies are exact, over all (a, b).
"""

import numpy as np

from tools.experiments.common import Experiment, Gate, finish, options, vectors

NAMES = ("a", "b", "c")
EDGES = [dict(a="a", b="b"), dict(a="a", b="c"), dict(a="b", b="c")]
OBJECTIVES = {
    "Symile": dict(symile=dict(group=NAMES)),
    "pairwise CLIP": dict(contrastive=dict(edges=EDGES)),
}


def config(objectives, bits, steps, batch):
    values = 2**bits
    return dict(
        steps=steps, batch_size=batch, data=dict(source="none"),
        modalities=[dict(name=n, kind="vectors", shape=(1, values), field=n, targets=False) for n in NAMES],
        model=dict(
            model="models.multimodal", embed_dim=values, dtype="float32",
            towers=[dict(name=n, modalities=(n,), dim=values, heads=1, depth=0, positions="none") for n in NAMES],
        ),
        objectives=objectives, optim=dict(lr=0.01, warmup=steps // 10, weight_decay=0.0),
    )  # fmt: skip


def examples(bits: int, quarters: int) -> dict:
    """All (a, b), four times: c = a XOR b in so many quarters of the examples, c = a in the others."""
    a, b = np.divmod(np.arange(4**bits), 2**bits)
    c = [a ^ b] * quarters + [a] * (4 - quarters)
    one_hot = np.eye(2**bits)
    return vectors(a=one_hot[np.tile(a, 4)], b=one_hot[np.tile(b, 4)], c=one_hot[np.concatenate(c)])


def accuracy(z: dict, data: dict, bits: int, product: bool) -> float:
    """How often c scores above all other candidates."""
    a, b, c = (data[n]["vectors"][:, 0, 0].argmax(1) for n in NAMES)
    table = {n: np.zeros((2**bits, z[n].shape[1])) for n in NAMES}
    for n, ids in zip(NAMES, (a, b, c)):
        table[n][ids] = z[n]
    query = table["a"][a] * table["b"][b] if product else table["a"][a] + table["b"][b]
    return float(((query @ table["c"].T).argmax(1) == c).mean())


def ceilings(bits: int, share: float) -> dict:
    """What the exact optima reach: Symile guesses a XOR b or a, which agree where b = 0; CLIP knows of a alone."""
    chance = 2.0**-bits
    mixed = lambda p: p + (1 - p) * chance
    return {"Symile": max(mixed(share), mixed(1 - share)), "pairwise CLIP": mixed(1 - share)}


def measure(bits=5, steps=500, batch=256, seeds=3, quarters=(4, 3, 2)) -> dict:
    """{objective: [{XOR share: accuracy} of every seed]}."""
    results = {}
    for name, objectives in OBJECTIVES.items():
        experiment = Experiment(config(objectives, bits, steps, batch))
        results[name] = []
        for seed in range(seeds):
            row = {}
            for q in quarters:
                data = examples(bits, q)
                params, _ = experiment.train(data, seed)
                z = experiment.embeddings(params, data)
                row[f"XOR share {q / 4}"] = accuracy(z, data, bits, product=name == "Symile")
            results[name].append(row)
    return results


SIZES = dict(
    bits=(5, 2, "of each modality"), steps=(500, 4, "of training"), batch=(256, 16, "examples a step"),
    seeds=(3, 2, "how many"),
)  # fmt: skip
GATES = (
    Gate("Symile retrieves c of XOR alone", "XOR share 1.0", "Symile", bound=0.99),
    Gate("pairwise CLIP stays below twice chance", "XOR share 1.0", "pairwise CLIP", sign=-1, bound=-2 / 32),
)


def main(argv=None):
    args = options(__doc__, argv, SIZES)
    results = measure(args.bits, args.steps, args.batch, args.seeds)
    for share in (1.0, 0.75, 0.5):
        limits = ", ".join(f"{n} {v:.3f}" for n, v in ceilings(args.bits, share).items())
        print(f"ceilings at an XOR share of {share}: {limits}")
    title = f"accuracy of retrieving c of {2**args.bits}; {args.steps} steps of {args.batch}"
    finish("symile_xor", args, title, results, systems=[41], control="pairwise CLIP", gates=GATES)


if __name__ == "__main__":
    main()
