"""The numbers of the tasks against writings of their definitions, one example at a time, and against SciPy."""

import itertools

import numpy as np
import pytest
from scipy import spatial, special, stats

from pretrain.evals import linear, metrics
from pretrain.evals.few_shot import accuracy
from pretrain.evals.knn import vote
from pretrain.evals.metrics import recall


def brute_recall(similarity, k):
    hits = 0
    for i, row in enumerate(similarity):
        better = sum(1 for j, s in enumerate(row) if j != i and s >= row[i])
        hits += better < k
    return hits / len(similarity)


@pytest.mark.parametrize("k", [1, 3, 10])
@pytest.mark.parametrize("ties", [False, True], ids=["real", "ties"])
def test_recall(k, ties):
    similarity = np.random.default_rng(k).normal(size=(20, 20)) + 0.7 * np.eye(20)
    if ties:
        similarity = np.round(similarity)
    assert recall(similarity, k) == pytest.approx(brute_recall(similarity, k))
    assert 0 < recall(similarity, 10) < 1


def test_recall_of_perfect_collapsed_and_wrong_features():
    assert recall(np.eye(5), 1) == 1
    assert recall(np.ones((5, 5)), 1) == 0, "collapsed features must not look good"
    assert recall(np.ones((5, 5)), 5) == 1
    assert recall(np.roll(np.eye(5), 1, axis=1), 1) == 0


def brute_average_precision(similarity, relevant):
    values = []
    for s, r in zip(similarity, relevant):
        order = sorted(range(len(s)), key=lambda j: (-s[j], r[j]))
        hits = [k for k, j in enumerate(order, 1) if r[j]]
        values += [np.mean([n / k for n, k in enumerate(hits, 1)])] if hits else []
    return np.mean(values)


@pytest.mark.parametrize("ties", [False, True], ids=["real", "ties"])
def test_ranks_and_precision(ties):
    rng = np.random.default_rng(0)
    similarity, relevant = rng.normal(size=(20, 20)), rng.random((20, 20)) < 0.2
    relevant[3] = False
    if ties:
        similarity = np.round(similarity)
    ranks = [sum(s >= row[i] for s in row) for i, row in enumerate(similarity)]
    assert metrics.reciprocal_rank(similarity) == pytest.approx(np.mean([1 / r for r in ranks]), abs=1e-9)
    expected = brute_average_precision(similarity, relevant)
    assert metrics.average_precision(similarity, relevant) == pytest.approx(expected, abs=1e-9)


def test_chance_is_what_random_orders_give():
    relevant = np.asarray([[1, 1, 0, 0, 0], [0, 0, 0, 0, 0], [0, 0, 1, 0, 0]], bool)
    orders = [np.tile(p, (3, 1)).astype(float) for p in itertools.permutations(range(5))]
    mean = np.mean([metrics.average_precision(o, relevant) for o in orders])
    assert metrics.average_precision_chance(relevant) == pytest.approx(mean, abs=1e-9)
    square = [np.asarray([p] * 5, float) for p in itertools.permutations(range(5))]
    mean = np.mean([metrics.reciprocal_rank(s) for s in square])
    assert metrics.reciprocal_rank_chance(5) == pytest.approx(mean, abs=1e-9)


def test_spearman_is_pearson_of_ranks():
    rng = np.random.default_rng(0)
    a, b = rng.normal(size=50), np.round(rng.normal(size=50))
    ranked = [stats.rankdata(x) for x in (a, b)]
    assert metrics.spearman(a, b) == pytest.approx(np.corrcoef(*ranked)[0, 1], abs=1e-9)
    assert metrics.spearman(a, np.exp(a)) == pytest.approx(1)
    assert metrics.spearman(a, np.ones(50)) == 0


def test_geometry():
    rng = np.random.default_rng(0)
    a, b = rng.normal(size=(2, 12, 5))
    ua, ub = (x / np.sqrt((x**2).sum(1, keepdims=True)) for x in (a, b))
    assert metrics.modality_gap(a, b) == pytest.approx(np.sqrt(((ua.mean(0) - ub.mean(0)) ** 2).sum()), abs=1e-9)
    assert metrics.alignment(a, b) == pytest.approx(np.mean([sum((x - y) ** 2) for x, y in zip(ua, ub)]), abs=1e-9)
    distances = spatial.distance.pdist(ua, "sqeuclidean")
    assert metrics.uniformity(a) == pytest.approx(np.log(np.mean(np.exp(-2 * distances))), abs=1e-9)
    values = np.sqrt(np.linalg.eigvalsh(np.cov(a.T)))
    expected = np.exp(special.entr(values / values.sum()).sum())
    assert metrics.effective_rank(a) == pytest.approx(expected, abs=1e-6)
    assert metrics.effective_rank(np.outer(rng.normal(size=9), np.ones(4))) == pytest.approx(1, abs=1e-4)
    assert metrics.effective_rank(np.ones((9, 4))) == 0


def brute_cka(a, b):
    """The unbiased HSIC as a mean over quadruples of different examples (Song et al., 2012, theorem 2)."""

    def hsic(k, m):
        quadruples = itertools.permutations(range(len(k)), 4)
        return np.mean([k[i, j] * (m[i, j] + m[q, r] - 2 * m[i, q]) for i, j, q, r in quadruples])

    k, m = a @ a.T, b @ b.T
    return hsic(k, m) / np.sqrt(hsic(k, k) * hsic(m, m))


def test_cka():
    rng = np.random.default_rng(0)
    a, b = rng.normal(size=(2, 8, 3))
    b += a
    assert metrics.cka(a, b) == pytest.approx(brute_cka(a, b), abs=1e-9)
    turn, _ = np.linalg.qr(rng.normal(size=(3, 3)))
    assert metrics.cka(a, 7 * a @ turn + 3) == pytest.approx(1), "blind to rotation, scale and place"
    wide = [metrics.cka(*rng.normal(size=(2, 20, 200))) for _ in range(20)]
    assert abs(np.mean(wide)) < 0.05, "unrelated features give 0 even where they are wider than the examples"
    assert metrics.cka(a, np.ones((8, 3))) == 0


def test_mutual_neighbours_and_representational_similarity():
    rng = np.random.default_rng(0)
    a, b = rng.normal(size=(2, 30, 4))
    shared = 0
    for i in range(30):
        near = []
        for x in (a, b):
            d = spatial.distance.cdist(x[i : i + 1], x, "cosine")[0]
            near.append({j for j in sorted(range(30), key=lambda j: d[j]) if j != i and sum(d < d[j]) <= 5})
        shared += len(near[0] & near[1])
    assert metrics.mutual_knn(a, b, 5) == pytest.approx(shared / 150, abs=1e-9)
    assert metrics.mutual_knn(a, 2 * a, 5) == 1
    ours, theirs = (1 - spatial.distance.pdist(x, "cosine") for x in (a, b))
    reference = spatial.distance.squareform(theirs)
    expected = stats.spearmanr(ours, theirs).statistic
    assert metrics.representational_similarity(a, reference) == pytest.approx(expected, abs=1e-9)


def test_linear_probe_separates_what_can_be_separated():
    rng = np.random.default_rng(0)
    labels = np.arange(90) % 3
    x = (rng.normal(size=(3, 8))[labels] * 4 + 0.1 * rng.normal(size=(90, 8)) + 50)[None]
    fitted, decay = linear.choose(x[:, :45], labels[:45], x[:, 45:60], labels[45:60], 3)
    assert fitted.accuracy(x[:, 60:], labels[60:]) == 1
    assert decay in linear.DECAYS


def test_linear_probe_is_at_its_minimum():
    """There the gradient, written by hand, is zero."""
    rng = np.random.default_rng(0)
    x, labels = rng.normal(size=(1, 60, 5)) * [1, 2, 3, 4, 0], rng.integers(3, size=60)
    fitted = linear.fit(x, labels, 3, 0.1)
    p = special.softmax(fitted.logits(x), axis=1) - np.eye(3)[labels]
    inputs = ((x - fitted.mean) / fitted.std)[0]
    np.testing.assert_allclose(inputs.T @ p / 60 + 0.1 * fitted.kernel, 0, atol=2e-3)
    np.testing.assert_allclose(p.mean(0), 0, atol=2e-3)


def test_mixture_finds_the_layer_that_knows():
    rng = np.random.default_rng(0)
    labels = rng.integers(2, size=200)
    x = rng.normal(size=(3, 200, 4))
    x[1, :, 0] += 6 * labels
    fitted = linear.fit(x, labels, 2, 0.01)
    assert fitted.mix.argmax() == 1 and fitted.accuracy(x, labels) > 0.97


def test_few_shot_of_separable_and_of_random_features():
    rng = np.random.default_rng(0)
    labels = np.repeat(np.arange(4), 10)
    far = np.eye(4)[labels] + 0.01 * rng.normal(size=(40, 4))
    assert accuracy(far, labels, far, labels, 2, seed=0) == 1
    noise = [accuracy(rng.normal(size=(40, 4)), labels, rng.normal(size=(40, 4)), labels, 2, s) for s in range(30)]
    assert np.mean(noise) == pytest.approx(0.25, abs=0.05)


def brute_vote(bank, labels, queries, k, temperature):
    centre = bank.mean(0)
    out = []
    for q in queries - centre:
        similarity = [float(q @ b / np.linalg.norm(q) / np.linalg.norm(b)) for b in bank - centre]
        votes = dict.fromkeys(sorted(set(labels)), 0.0)
        for j in sorted(range(len(bank)), key=lambda j: -similarity[j])[:k]:
            votes[labels[j]] += np.exp(similarity[j] / temperature)
        out.append(max(votes, key=votes.get))
    return out


@pytest.mark.parametrize("k, temperature", [(1, 0.07), (5, 0.07), (20, 1.0), (100, 0.5)])
def test_vote(k, temperature):
    rng = np.random.default_rng(0)
    bank, queries = rng.normal(size=(60, 4)), rng.normal(size=(50, 4))
    labels = np.asarray(["ant", "bee", "cat"])[rng.integers(0, 3, 60)]
    got = vote(bank, labels, queries, k, temperature)
    assert got.tolist() == brute_vote(bank, labels.tolist(), queries, k, temperature)
    assert len(set(got)) > 1


def test_separable_features_are_classified_perfectly():
    rng = np.random.default_rng(0)
    centres, labels = 5 * np.eye(4), np.repeat([3, 1, 4, 9], 15)
    far = 100.0  # a direction that all share says nothing
    bank, queries = (np.repeat(centres, 15, 0) + 0.3 * rng.normal(size=(60, 4)) + far for _ in range(2))
    assert (vote(bank, labels, queries, 10, 0.07) == labels).all()


def test_auroc_is_the_share_of_pairs_in_order():
    rng = np.random.default_rng(0)
    score, positive = rng.integers(0, 6, 40), rng.random(40) < 0.4
    pairs = [(a > b) + (a == b) / 2 for a in score[positive] for b in score[~positive]]
    assert metrics.auroc(score, positive) == pytest.approx(np.mean(pairs))
    statistic = stats.mannwhitneyu(score[positive], score[~positive]).statistic
    assert metrics.auroc(score, positive) == pytest.approx(statistic / len(pairs))
    assert metrics.auroc(positive, positive) == 1 and metrics.auroc(np.zeros(40), positive) == 0.5
    with pytest.raises(ValueError, match="AUROC of 3 positive and 0 other examples: needs both"):
        metrics.auroc([1, 2, 3], [1, 1, 1])


def test_an_interval_of_auroc_holds_what_is_true_as_often_as_it_says():
    rng, truth, held = np.random.default_rng(0), stats.norm.cdf(1 / 2**0.5), []
    for seed in range(120):
        positive = np.arange(80) < 40
        score = rng.normal(size=80) + positive
        lower, upper = metrics.auroc_interval(score, positive, draws=200, seed=seed)
        assert lower < metrics.auroc(score, positive) < upper
        held.append(lower < truth < upper)
    assert 0.87 < np.mean(held) <= 1


def test_a_permutation_p_counts_random_orders():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(12, 5))
    z = x / np.linalg.norm(x, axis=1, keepdims=True)
    other = rng.normal(size=(12, 12))
    given = z @ z.T + 3 * (other + other.T)
    upper = np.triu_indices(12, 1)
    wanted, orders = stats.spearmanr((z @ z.T)[upper], given[upper]).statistic, np.random.default_rng(7)
    found = []
    for _ in range(99):
        o = orders.permutation(12)
        found.append(stats.spearmanr((z @ z.T)[upper], given[np.ix_(o, o)][upper]).statistic)
    expected = (1 + sum(f >= wanted for f in found)) / 100
    assert 0.01 < expected < 1 and metrics.permutation_p(x, given, 99, seed=7) == pytest.approx(expected)
    turned = x @ np.linalg.qr(rng.normal(size=(5, 5)))[0]
    assert metrics.representational_similarity(turned, z @ z.T) == pytest.approx(1), "of itself, however turned"
    assert metrics.permutation_p(x, z @ z.T, 99) == 0.01, "no order is as good as the true one"


def test_a_noise_ceiling_is_what_raters_agree_with_others():
    rng = np.random.default_rng(1)
    raters = rng.normal(size=(3, 6, 6)) + rng.normal(size=(6, 6))
    raters += raters.swapaxes(1, 2)
    upper = np.triu_indices(6, 1)
    a, b, c = (r[upper] for r in raters)
    rho = lambda x, y: stats.spearmanr(x, y).statistic
    low = np.mean([rho(a, (b + c) / 2), rho(b, (a + c) / 2), rho(c, (a + b) / 2)])
    assert metrics.noise_ceiling(raters) == pytest.approx((low, np.mean([rho(x, (a + b + c) / 3) for x in (a, b, c)])))


PLANTED = {  # which modalities answer a task → importance of each without and with the empty subset
    "the first alone": (lambda s: "v" in s, (1.0, -0.5), (1.0, 0.0)),
    "either": (lambda s: bool(s), (0.0, 0.0), (0.5, 0.5)),
    "both together": (lambda s: len(s) == 2, (0.5, 0.5), (0.5, 0.5)),
    "neither": (lambda s: True, (0.0, 0.0), (0.0, 0.0)),
}


@pytest.mark.parametrize("answers, without, with_empty", PLANTED.values(), ids=list(PLANTED))
def test_importance_of_a_modality_is_exact_on_planted_tasks(answers, without, with_empty):
    accuracy = {s: float(answers(s)) for s in (("v",), ("t",), ("v", "t"))}
    assert tuple(metrics.modality_importance(accuracy).values()) == without
    both = metrics.modality_importance({(): float(answers(()))} | accuracy)
    assert (both["v"], both["t"]) == with_empty


def test_what_a_run_in_phases_has_at_its_end():
    r = [[0.6, 0.3, 0.1], [0.5, 0.8, 0.2], [0.4, 0.9, 0.9]]  # the second is better than ever
    found = metrics.continual(r)
    assert found == pytest.approx({"average": 2.2 / 3, "newest": 0.9, "forgetting": (0.2 - 0.1) / 2})
    for bad in ([[0.5]], [[0.5, 0.1]], [0.5, 0.1]):
        with pytest.raises(ValueError, match="two phases or more"):
            metrics.continual(bad)
