"""Folders of transformers as they are published: what tokenizer and config really say, against transformers itself."""

import json

import numpy as np
import pytest

from configs import clip_b16
from data_pipeline.text import TextTokenizer
from pretrain import build
from pretrain.interop import tokenizer_json, transformers
from pretrain.interop.agreement import compare
from pretrain.restore import restore
from tools import convert

WORDS = ("a", "photo", "of", "red", "bus", "two", "cats", "asleep", "rain", "on", "green", "roof", ",")


def tokenizer(folder, special=("<pad>", "<eos>", "<unk>"), pad="<pad>", **config):
    """A tokenizer of `WORDS` whose template ends a text with <eos>, as SigLIP2's does; pad: its own padding token."""
    models = pytest.importorskip("tokenizers.models")
    from tokenizers import Tokenizer, pre_tokenizers, processors

    made = Tokenizer(models.WordLevel({w: i for i, w in enumerate((*special, *WORDS))}, unk_token="<unk>"))
    made.pre_tokenizer = pre_tokenizers.Whitespace()
    made.add_special_tokens(list(special))
    eos = special.index("<eos>")
    made.post_processor = processors.TemplateProcessing(single="$A <eos>", special_tokens=[("<eos>", eos)])
    made.save(str(folder / "tokenizer.json"))
    about = (
        dict(tokenizer_class="PreTrainedTokenizerFast", pad_token=pad, eos_token="<eos>", unk_token="<unk>") | config
    )
    (folder / "tokenizer_config.json").write_text(json.dumps(about))


def theirs(folder, kind, *, without=(), **text):
    """A folder with a model of random weights; without: keys that its text_config does not list."""
    torch, hf = pytest.importorskip("torch"), pytest.importorskip("transformers")
    torch.manual_seed(0)
    sizes = dict(hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4)
    text = dict(sizes, vocab_size=16, max_position_embeddings=12) | text
    vision = dict(sizes, image_size=16, patch_size=8)
    if kind == "clip":
        model = hf.CLIPModel(hf.CLIPConfig(text_config=text, vision_config=vision, projection_dim=20))
    else:
        model = hf.SiglipModel(hf.SiglipConfig(text_config=text | dict(projection_size=32), vision_config=vision))
    with torch.no_grad():
        for p in model.parameters():
            p.add_(0.2 * torch.randn_like(p))
    model.save_pretrained(folder)
    config = json.loads((folder / "config.json").read_text())
    for key in without:
        config["text_config"].pop(key, None)
    (folder / "config.json").write_text(json.dumps(config))
    return folder


@pytest.fixture
def siglip2(tmp_path):
    """A fixed-resolution SigLIP2: model_type siglip, no pad_token_id, and a tokenizer that pads with 0."""
    (tmp_path / "hub").mkdir()
    folder = theirs(tmp_path / "hub", "siglip", without=("pad_token_id", "bos_token_id", "eos_token_id"))
    tokenizer(folder)
    return folder


def test_siglip2_pads_as_its_tokenizer_does(siglip2, tmp_path, capsys):
    convert.read(siglip2, tmp_path / "run")
    out = capsys.readouterr().out
    assert "transformers says the same: embeddings of 3 pictures by" in out
    assert "re-interpreted: text_config.pad_token_id=1: the tokenizer pads with 0" in out
    held = restore(tmp_path / "run")
    assert {t.name: t.pad_id for t in build.model_config(held.run).towers} == {"image": -1, "text": 0}
    convert.write(tmp_path / "run", tmp_path / "back")
    assert "transformers says the same" in capsys.readouterr().out
    assert json.loads((tmp_path / "back" / "config.json").read_text())["text_config"]["pad_token_id"] == 0


def test_another_padding_is_found_by_the_comparison(siglip2):
    """What was computed before: texts padded with 1, the default of a config that does not say it."""
    held = transformers.read(siglip2)
    image, text = held.model.towers
    import dataclasses

    wrong = dataclasses.replace(held.model, towers=(image, dataclasses.replace(text, pad_id=1)))
    with pytest.raises(ValueError, match=r"transformers says something else of it: .*texts: cosine 0\.\d+ at worst"):
        compare(siglip2, wrong, held.modalities, held.params["model"])


def test_where_the_padding_is_said(siglip2):
    """In tokenizer_config.json, in special_tokens_map.json, in tokenizer.json itself, or in config.json alone."""
    file = siglip2 / "tokenizer_config.json"
    about = json.loads(file.read_text())
    for token in ("<unk>", {"content": "<unk>"}):
        file.write_text(json.dumps(about | {"pad_token": token}))
        assert transformers.read(siglip2).model.towers[1].pad_id == 2
    del about["pad_token"]
    file.write_text(json.dumps(about))
    (siglip2 / "special_tokens_map.json").write_text(json.dumps({"pad_token": {"content": "<pad>"}}))
    assert transformers.read(siglip2).model.towers[1].pad_id == 0
    (siglip2 / "special_tokens_map.json").unlink()
    assert tokenizer_json.padding(siglip2) == (None, "right") and transformers.read(siglip2).model.towers[1].pad_id == 1
    held = json.loads((siglip2 / "tokenizer.json").read_text())
    padding = dict(strategy={"Fixed": 12}, direction="Right", pad_to_multiple_of=None, pad_id=2, pad_type_id=0)
    (siglip2 / "tokenizer.json").write_text(json.dumps(held | {"padding": padding | {"pad_token": "<unk>"}}))
    assert transformers.read(siglip2).model.towers[1].pad_id == 2
    file.write_text(json.dumps(about | {"padding_side": "left"}))
    with pytest.raises(ValueError, match="padding_side='left': here texts are padded at the right"):
        transformers.read(siglip2)


@pytest.mark.parametrize("ends", [1, 2])
def test_clip_is_pooled_where_its_texts_end(tmp_path, capsys, ends):
    """2 is how the first configs say `the greatest id`; a tokenizer with another end is found."""
    special = ("<pad>", "<eos>", "<unk>")
    (tmp_path / "hub").mkdir()
    folder = theirs(tmp_path / "hub", "clip", eos_token_id=ends, bos_token_id=0, pad_token_id=0)
    tokenizer(folder, special)
    if ends == 1:
        convert.read(folder, tmp_path / "run")
        assert "transformers says the same" in capsys.readouterr().out
    else:
        with pytest.raises(ValueError, match="transformers says something else of it"):
            convert.read(folder, tmp_path / "run")
        assert not (tmp_path / "run").exists()


def test_no_tokenizer_and_no_finite_number(tmp_path, capsys):
    from safetensors.numpy import load_file, save_file

    (tmp_path / "hub").mkdir()
    folder = theirs(tmp_path / "hub", "clip", eos_token_id=15, bos_token_id=0, pad_token_id=0)
    convert.read(folder, tmp_path / "run")
    assert "transformers says the same" in capsys.readouterr().out
    state = load_file(folder / "model.safetensors")
    state["text_model.final_layer_norm.bias"][3] = np.nan
    save_file(state, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ValueError, match=r"text_encoder/norm/bias hold numbers that are not finite"):
        convert.read(folder, tmp_path / "broken")
    assert not (tmp_path / "broken").exists()


def test_a_long_caption_keeps_its_end_where_it_is_pooled():
    """CLIP's towers, here and exported: the words are cut. What predicts texts cuts as 4M does."""
    run = build.parse(clip_b16.get_config("tiny"))
    (text,) = (m for m in run.modalities if m.kind == "sequence")
    assert build.pooled_at_end(run) == {text.name}
    long, tokens = {"row": 0, "name": {"en": "a red bus " * 30}}, TextTokenizer()
    made = build.encoder(run, train=False)(long, np.random.default_rng(0))[text.name]
    whole = tokens.encode("a red bus " * 30, 200)
    assert made["valid"].all() and made["ids"].tolist() == [*whole[: text.length - 1], tokens.eos_id]
    assert tokens.encode("a red bus " * 30, text.length) == whole[: text.length]
    assert tokens.encode("bus", 16, keep_end=True) == tokens.encode("bus", 16)
