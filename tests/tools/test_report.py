"""The page on a run: its parts, in their order, from a network that was not trained."""

import json
import re

import tiny
from toy_run import Toy, write_run

from pretrain.evals.base import Context
from tools.report import page


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
