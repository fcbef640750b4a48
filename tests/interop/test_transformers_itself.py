"""Against transformers itself, where it is installed: its numbers, its folders back again, our folders in it."""

import dataclasses
import json

import jax
import numpy as np
import pytest
from flax import nnx
from small_towers import CONFIGS, make_runs

from data_pipeline.sources.emoji import Source
from data_pipeline.text import TextTokenizer
from pretrain import build
from pretrain.evals.base import Context
from pretrain.interop import transformers
from pretrain.models.network import Network
from pretrain.models.passes import Leaf, compute
from pretrain.models.tokens import Whole
from pretrain.restore import restore
from pretrain.train import train
from tools import convert

EOS = 98


@pytest.fixture(scope="module")
def runs():
    return make_runs()


@pytest.fixture(scope="module", params=CONFIGS)
def theirs(request, tmp_path_factory):
    """(their model of random weights, its folder)."""
    torch, hf = pytest.importorskip("torch"), pytest.importorskip("transformers")
    text = dict(
        vocab_size=99, hidden_size=32, intermediate_size=72, num_hidden_layers=2, num_attention_heads=4,
        max_position_embeddings=12, bos_token_id=97, eos_token_id=EOS, pad_token_id=1,
    )  # fmt: skip
    vision = dict(
        hidden_size=48, intermediate_size=100, num_hidden_layers=3, num_attention_heads=4, image_size=32, patch_size=8,
    )  # fmt: skip
    torch.manual_seed(0)
    if request.param == "clip":
        config = hf.CLIPConfig(text_config=text, vision_config=vision | dict(hidden_act="gelu"), projection_dim=20)
        model = hf.CLIPModel(config)
    else:
        config = hf.SiglipConfig(text_config=text | dict(projection_size=48), vision_config=vision)
        model = hf.SiglipModel(config)
    with torch.no_grad():
        for name, p in model.named_parameters():
            p.add_(1.3 if name.startswith("logit_scale") else 0.1 * torch.randn_like(p))
    path = tmp_path_factory.mktemp("hf") / request.param
    model.eval().save_pretrained(path, max_shard_size="60KB")
    return model, path


def batch():
    """Three pictures and texts of 4, 12 and 7 tokens: (our batch, their ids)."""
    rng = np.random.default_rng(0)
    ids, lengths = rng.integers(3, 97, (3, 12)), np.array([4, 12, 7])
    ids[range(3), lengths - 1] = EOS
    valid = np.arange(12) < lengths[:, None]
    pixels = rng.integers(0, 256, (3, 32, 32, 3), dtype=np.uint8)
    ours = {"image": {"pixels": pixels, "valid": np.ones(3, bool)}, "text": {"ids": ids * valid, "valid": valid}}
    return ours, np.where(valid, ids, 1)


def embeddings(held):
    """Of `batch`: {modality: (pooled, embedding)} by our network in fp32."""
    config = dataclasses.replace(held.model, dtype="float32")
    names = tuple(m.name for m in held.modalities)
    graph = nnx.split(nnx.eval_shape(lambda: Network(config, held.modalities, names, nnx.Rngs(0))))[0]

    @jax.jit
    def run(params, batch):
        model = nnx.merge(graph, params)
        leaves = {n: Leaf(Whole((n,), held.modalities)) for n in names}
        pooled = {(n, "pooled"): model.states.pooled(n, leaf) for n, leaf in leaves.items()}
        made = compute(model, pooled | {n: model.states.embedding(n, leaf) for n, leaf in leaves.items()}, batch)
        return {n: (made[n, "pooled"], made[n]) for n in names}

    return run(held.params["model"], batch()[0])


def test_embeddings_and_logits_are_theirs(theirs):
    import torch

    model, path = theirs
    held, (ours, ids) = transformers.read(path), batch()
    image = held.modalities[0]
    pixels = (ours["image"]["pixels"] / 255.0 - np.array(image.mean)) / np.array(image.std)
    ids, pixels = torch.tensor(ids), torch.tensor(pixels.transpose(0, 3, 1, 2), dtype=torch.float32)
    with torch.no_grad():
        out = model(input_ids=ids, pixel_values=pixels)
        image, text = model.vision_model(pixels).pooler_output, model.text_model(ids)
    text = text.last_hidden_state[:, -1] if held.kind == "siglip" else text.pooler_output  # SigLIP's is projected
    z = embeddings(held)
    own = held.params["objective"]["contrastive" if held.kind == "clip" else "sigmoid"]
    logits = np.exp(own["log_scale"]) * (z["image"][1] @ z["text"][1].T) + own.get("bias", 0.0)
    for a, b in (
        (z["image"][0], image),
        (z["text"][0], text),
        (z["image"][1], out.image_embeds),
        (z["text"][1], out.text_embeds),
        (logits, out.logits_per_image),
    ):
        np.testing.assert_allclose(a, b.numpy(), atol=1e-5, rtol=1e-5)


def test_their_folder_comes_back_the_same(theirs, tmp_path):
    import torch
    import transformers as hf

    model, path = theirs
    held = transformers.read(path)
    out = transformers.write(
        tmp_path / "out", held.model, held.modalities, held.objectives, held.params, eos_id=EOS
    )  # fmt: skip
    again, info = hf.AutoModel.from_pretrained(out, output_loading_info=True)
    assert type(again) is type(model) and not any(info.values())
    before, after = model.state_dict(), again.state_dict()
    assert before.keys() == after.keys() and all(torch.equal(before[k], after[k]) for k in before)
    ids, pixels = torch.tensor(batch()[1]), torch.randn(3, 3, 32, 32)
    with torch.no_grad():
        a, b = (m.eval()(input_ids=ids, pixel_values=pixels).logits_per_text for m in (model, again))
    assert torch.equal(a, b)


@pytest.mark.parametrize("kind", CONFIGS)
def test_our_own_model_opens_in_transformers(runs, tmp_path, kind):
    pytest.importorskip("torch")
    hf = pytest.importorskip("transformers")
    out = transformers.write(tmp_path / "x", *runs[kind])
    model, info = hf.AutoModel.from_pretrained(out, output_loading_info=True)
    assert type(model).__name__ == transformers.CLASSES[kind] and not any(info.values())
    processor = hf.AutoProcessor.from_pretrained(out)
    texts, image = ["grinning face", "a [S_1] red v0=3 cat"], np.full((64, 64, 3), 255, np.uint8)
    given = processor(text=texts, images=image, padding="max_length", return_tensors="pt")
    ids, pad = [TextTokenizer().encode(t, 16) for t in texts], 0
    assert given["input_ids"].tolist() == [i + [pad] * (16 - len(i)) for i in ids]
    assert given["pixel_values"].shape == (1, 3, 64, 64) and ("attention_mask" in given) == (kind == "clip")
    mean, std = runs[kind][1][0].mean, runs[kind][1][0].std
    np.testing.assert_allclose(given["pixel_values"][0, :, 0, 0], [(1 - m) / s for m, s in zip(mean, std)], rtol=1e-5)
    assert model(**given).logits_per_image.shape == (1, 2)


@pytest.mark.parametrize("kind", CONFIGS)
def test_published_base_models_have_our_names_and_shapes(tmp_path, kind):
    """openai/clip-vit-base-patch16 and google/siglip-base-patch16-224, whose config.json says little more than this."""
    torch, hf = pytest.importorskip("torch"), pytest.importorskip("transformers")
    config = dict(model_type=kind, vision_config=dict(patch_size=16), text_config={})
    (tmp_path / "config.json").write_text(json.dumps(config))
    with torch.device("meta"):
        model = hf.AutoModel.from_config(hf.AutoConfig.from_pretrained(tmp_path))
    expected = {k: tuple(v.shape) for k, v in model.state_dict().items()}
    kind, ours, modalities, _ = transformers.describe(tmp_path)
    assert transformers.shapes(kind, ours, modalities) == expected
    assert len(expected) == {"clip": 398, "siglip": 408}[kind]
    # The config files of the papers describe the same models.
    run = build.parse(CONFIGS[kind].get_config())
    made = build.model_config(run)
    assert made == ours and transformers.shapes(kind, made, run.modalities) == expected


@pytest.mark.slow
@pytest.mark.parametrize("kind", CONFIGS)
def test_a_model_trained_on_emoji_gives_its_numbers_in_transformers(tmp_path, kind):
    """From raw pictures and texts: their processor, tokenizer and model against our pipeline and model."""
    torch, hf = pytest.importorskip("torch"), pytest.importorskip("transformers")
    config = CONFIGS[kind].get_config("tiny")
    config.steps, config.batch_size, config.optim.warmup, config.log.tensorboard = 3, 8, 1, False
    config.evals = {}
    if kind == "siglip":
        config.objectives.sigmoid.chunk = 1
    train(config, tmp_path / "run")
    convert.write(tmp_path / "run", tmp_path / kind, None, image="", text="", eos_id=None)
    held = restore(tmp_path / "run")
    (objective,) = held.objectives.values()
    given = next(Context(held.run, held.graphs, held.objectives).batches("test", 16))
    nodes = {name: node for (what, name), node in objective.passes(train=False).items() if what == "z"}
    ours = jax.jit(lambda p: compute(nnx.merge(held.graph, p), nodes, given))(held.params["model"])
    model, info = hf.AutoModel.from_pretrained(tmp_path / kind, output_loading_info=True)
    assert not any(info.values())
    n = int((given["row"] >= 0).sum())  # batches are as even as can be
    ours = {name: z[:n] for name, z in ours.items()}
    emoji = [Source("test")[i] for i in range(n)]
    texts, images = [e["name"]["en"] for e in emoji], [e["render3d"] for e in emoji]
    processor = hf.AutoProcessor.from_pretrained(tmp_path / kind)
    inputs = processor(
        text=texts, images=images, padding="max_length", max_length=16, truncation=True, return_tensors="pt"
    )
    with torch.no_grad():
        theirs = model(**inputs)
    np.testing.assert_allclose(theirs.image_embeds, ours["image"], atol=1e-5)
    np.testing.assert_allclose(theirs.text_embeds, ours["text"], atol=1e-5)
    own = held.params["objective"][next(iter(held.objectives))]
    logits = np.exp(own["log_scale"]) * ours["image"] @ ours["text"].T + own.get("bias", 0.0)
    np.testing.assert_allclose(theirs.logits_per_image, logits, atol=1e-4)
