"""The page on a run: its parts, in their order, from a network that was not trained."""

import json
import re

import tiny
from toy_run import Toy, write_run

from pretrain.evals.base import Context
from tools import report
from tools.report import Painter, page


def test_pictures_come_before_scores(token_store, tmp_path, monkeypatch):
    monkeypatch.setattr(Context, "tokenizers", {"rgb": Toy()})
    write_run(tiny.emoji_run(token_store), tmp_path)
    rows = [{"step": s, "masked/caption": 5.0 - s, "contrastive/render3d~caption": 2.0} for s in (1, 2)]
    rows += [{"step": 2, "val/masked/caption": 4.0}]
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))
    score = {"value": 0.125, "chance": 0.5, "untrained": None}
    scores = {"retrieval/render3d→caption/R@1": score, "nll/none→caption": score, "nll/render3d→caption": score}
    (tmp_path / "eval.json").write_text(json.dumps({"checkpoints": [{"scores": scores}]}))
    html = page(tmp_path, examples=2)
    assert re.findall("<h2>(.*?)</h2>", html) == [
        "Losses", "Masked tokens filled in", "caption → render3d", "Words for pictures", "Nearest: caption → render3d",
        "Held-out scores", "How well one modality predicts another",
    ]  # fmt: skip
    assert html.count("data:image/png;base64,") == 4 and "http" not in re.sub('data:image/png[^"]*', "", html)
    assert "retrieval/render3d→caption/R@1" in html and "0.125" in html and "nll/" not in html


def test_familiar_captions_have_no_word_that_training_lacks(token_store, tmp_path, monkeypatch):
    write_run(tiny.emoji_run(token_store), tmp_path)
    p = Painter(tmp_path, examples=1000)

    def words(batch):
        texts = p.words("caption", batch["caption"])
        return {int(row): set(re.split(r"\W+", t)) - {""} for row, t in zip(batch["row"], texts) if row >= 0}

    known = set.union(*(w for b in p.context.batches("train", 7) for w in words(b).values()))
    held_out = words(p.held_out)
    for least in (1, 10**9):
        monkeypatch.setattr(report, "FAMILIAR", least)
        expected = [row for row, w in held_out.items() if least == 1 and w <= known]
        found = p.familiar("caption")
        assert ([] if found is None else found["row"].tolist()) == (expected if len(expected) > 1 else [])
    assert 1 < sum(w <= known for w in held_out.values()) < len(held_out)
