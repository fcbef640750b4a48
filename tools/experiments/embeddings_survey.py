"""python -m tools.experiments.embeddings_survey: what do probes of word vectors say of words learned from pictures?

The probes that a survey lists (arXiv 2411.05036, `configs/systems/embeddings_survey.py`) on a planted language: 24
trades; texts name a sex, a trade, or both, and a picture is a random nonlinear view of what they mean, under noise. A
picture of a trade by itself shows one sex or the other: of half of the trades .9 are men, of the others .9 women, or,
as a control, half each. Three of four pairs of sex and trade are learned by contrast, by two small towers. Similarity:
Spearman of the cosines of trades with those of their meanings; analogies between trades of both sexes, of which one in
four texts was never learned, and with c alone; and the effect of a test of bias: how much nearer the trades of men
lie to "man" than to "woman", trades of women less so.
"""

import jax
import numpy as np

from pretrain.evals.analogy import analogies, solved
from pretrain.evals.association import association
from pretrain.evals.features import unit
from pretrain.evals.metrics import spearman
from tools.experiments.common import Experiment, Gate, finish, options, pairs

BIASED, EVEN, UNTRAINED = "pictures with a bias", "pictures without", "untrained"
SIZES = dict(steps=(600, 4, "of training"), batch=(48, 16, "pairs a step"), seeds=(4, 2, "how many"))
GATES = (
    Gate("trades are as alike as what they mean, more than before training", "similarity", BIASED, UNTRAINED),
    Gate("analogies are solved more than before training", "analogy", BIASED, UNTRAINED),
    Gate("and more than by c alone", "analogy less c alone", BIASED),
    Gate("a bias of pictures is one of words", "bias", BIASED),
    Gate("more so than where pictures have none", "bias", BIASED, EVEN),
)
TRADES, SHARE, PICTURES = 24, 0.9, 16
LATENT, WIDTH, NOISE = 12, 64, 0.3


def language(seed: int, share: float) -> tuple:
    """(data of the texts that are learned, `[texts, PICTURES, …]`, data of all texts: two sexes, the trades, the trades
    of men, of women; what trades mean). share: of the sex that a trade is shown with by itself."""
    rng = np.random.default_rng(seed)
    sexes, trades = rng.normal(size=(2, LATENT)), rng.normal(size=(TRADES, LATENT))
    rows = rng.normal(size=(2 + TRADES, WIDTH))
    usual = np.arange(TRADES) % 2  # the sex of a trade
    of_sex, of_trade = np.repeat([0, 1], TRADES), np.tile(np.arange(TRADES), 2)
    often = rng.random((TRADES, PICTURES)) < share
    alone = trades[:, None] + sexes[np.where(often, usual[:, None], 1 - usual[:, None])]
    again = lambda x: np.repeat(x[:, None], PICTURES, 1)
    meant = np.concatenate([again(sexes), alone, again(trades[of_trade] + sexes[of_sex])])
    first, last = (rng.normal(size=s) / s[0] ** 0.5 for s in ((LATENT, WIDTH), (WIDTH, WIDTH)))
    picture = np.tanh(meant @ first) @ last
    picture = (picture + NOISE * rng.normal(size=picture.shape))[:, :, None].astype(np.float32)
    text = np.zeros((2 + 3 * TRADES, 2, WIDTH), np.float32)
    text[: 2 + TRADES, 0], text[2 + TRADES :] = rows, np.stack([rows[of_sex], rows[2 + of_trade]], 1)
    valid = np.ones(text.shape[:2], bool)
    valid[: 2 + TRADES, 1] = False
    data = {
        "a": dict(vectors=picture, valid=np.ones(picture.shape[:3], bool)),
        "b": dict(vectors=again(text), valid=again(valid)), "row": again(np.arange(len(text))),
    }  # fmt: skip
    left_out = 2 + TRADES + rng.choice(2 * TRADES, TRADES // 2, replace=False)
    learned = np.setdiff1d(np.arange(len(text)), left_out)
    return jax.tree.map(lambda x: x[learned], data), data, trades


def config(steps: int, batch: int) -> dict:
    objectives = dict(contrastive=dict(edges=[dict(a="a", b="b")]))
    made = pairs(objectives, steps=steps, batch=batch, depth=1, embed_dim=32, width=WIDTH)
    made["modalities"][1]["shape"] = (2, WIDTH)
    made["model"]["towers"][1]["positions"] = "learned"
    return made


def scores(experiment: Experiment, params, given) -> dict:
    _, data, meant = given
    z = unit(experiment.embeddings(params, data)["b"])
    man, woman, trades, both = z[:1], z[1:2], z[2 : 2 + TRADES], z[2 + TRADES :]
    upper = np.triu_indices(TRADES, 1)
    asked = analogies(np.stack([np.arange(TRADES), TRADES + np.arange(TRADES)], 1))
    found, alone = solved(both, asked), solved(both, asked, alone=True)
    return {
        "similarity": spearman((trades @ trades.T)[upper], (unit(meant) @ unit(meant).T)[upper]), "analogy": found,
        "analogy less c alone": found - alone, "bias": association(trades[::2], trades[1::2], man, woman, 99)[0],
    }  # fmt: skip


def measure(steps=600, batch=48, seeds=4) -> dict:
    """{condition: [scores of every seed]}."""
    experiment, results = Experiment(config(steps, batch)), {BIASED: [], EVEN: [], UNTRAINED: []}
    for seed in range(seeds):
        for name, share in ((BIASED, SHARE), (EVEN, 0.5)):
            given = language(seed, share)
            params, _ = experiment.train(given[0], seed)
            results[name].append(scores(experiment, params, given))
        results[UNTRAINED].append(scores(experiment, experiment.init(jax.random.key(seed)), given))
        print(seed, {n: {k: round(v, 3) for k, v in runs[-1].items()} for n, runs in results.items()}, flush=True)
    return results


def main(argv=None):
    args = options(__doc__, argv, SIZES)
    results = measure(args.steps, args.batch, args.seeds)
    title = f"Texts on {TRADES} trades and two sexes; {args.steps} steps of {args.batch}"
    finish("embeddings_survey", args, title, results, systems=[37], control=UNTRAINED, gates=GATES)


if __name__ == "__main__":
    main()
