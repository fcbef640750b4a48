"""Clips to a token store: what the tokenizer says of each frame under the crops, and no clip is kept beside its ids."""

import sys

import numpy as np
import pytest
from ml_collections import ConfigDict
from toy_run import write_run

from configs import video_tokenizer
from data_pipeline.image import apply_crop
from data_pipeline.sources import files
from data_pipeline.sources.tokens import Source
from data_pipeline.transforms.crop import crop_settings
from pretrain.restore import load_tokenizer
from tools.tokenize import __main__ as program


@pytest.mark.slow
def test_clips_become_ids(tmp_path, monkeypatch):
    c = ConfigDict(video_tokenizer.get_config("tiny"))
    c.modalities = [dict(name="clip", kind="video", shape=(3, 16, 16, 3), field="clip")]
    for part in ("encoder", "decoder"):
        c.model[part].widths = (8, 16)
    write_run(c, tmp_path)
    rng, data = np.random.default_rng(0), tmp_path / "data"
    data.mkdir()
    for i in range(3):
        np.save(data / f"{i}.npy", rng.integers(0, 256, (4, 20, 20, 3), dtype=np.uint8))
    (data / "train.jsonl").write_text("".join(f'{{"clip": "{i}.npy", "caption": "c{i}"}}\n' for i in range(3)))
    out = tmp_path / "tokens"
    monkeypatch.setattr(
        sys, "argv",
        ["tokenize", "--source=files", f"--path={data}", f"--tokenizers=clip={tmp_path}", f"--out={out}",
         "--splits=train", "--crops=2", "--palette=none"],
    )  # fmt: skip
    program.main()
    store, source, tokenizer = Source(out, "train"), files.Source(data, "train"), load_tokenizer(tmp_path)
    assert tokenizer.grid == (2 * 8, 8)
    for i in range(3):
        settings = crop_settings(np.random.default_rng(i), 2, (20, 20))
        crops = [[apply_crop(f, s, (16, 16)) for f in source[i]["clip"][:3]] for s in settings]
        found = store[i]
        np.testing.assert_array_equal(found["clip"].reshape(2, -1), tokenizer.encode(np.asarray(crops)))
        assert found["caption"] == f"c{i}"
