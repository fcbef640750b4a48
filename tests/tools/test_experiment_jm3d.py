"""The conditions of `tools.experiments.jm3d` are what they are said to be."""

from tools.experiments import jm3d


def test_conditions_differ_in_what_their_names_say():
    made = {n: jm3d.config(n, 8, 16) for n in jm3d.CONDITIONS}
    how = {n: c["model"]["parts"]["view_pool"]["how"] for n, c in made.items()}
    assert (how[jm3d.JM3D], how[jm3d.PLAIN], how[jm3d.MEAN], how[jm3d.ONE]) == ("query", "query", "mean", "first")
    assert [n for n, c in made.items() if "parent" not in c["objectives"]] == [jm3d.PLAIN]
    edges = {n: len(c["objectives"]["contrastive"]["edges"]) for n, c in made.items()}
    assert edges.pop(jm3d.TEXT) == 1 and set(edges.values()) == {3}
    assert all(c["data"]["options"] == dict(wrong=0.5) for c in made.values())
