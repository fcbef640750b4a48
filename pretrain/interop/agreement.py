"""A folder of transformers and the same model here, on the same pictures and raw texts: whether both say the same."""

import dataclasses
from pathlib import Path

import jax
import numpy as np
from flax import nnx

from data_pipeline import text_tokenizers
from pretrain.finite import furthest
from pretrain.interop import tokenizer_json
from pretrain.models import multimodal
from pretrain.models.network import Network
from pretrain.models.passes import Leaf, compute
from pretrain.models.tokens import Whole

TOLERANCE = 1e-3  # of a number of an embedding of unit length, in fp32
# One text is longer than any model's: what is cut, and where it ends, is a matter of convention.
TEXTS = ("a photo of a red bus", "Two cats, asleep", "rain on a green roof " * 100)


def compare(folder, model: multimodal.Config, pair, params: dict) -> str:
    """One line on how far the embeddings are apart, or why that is not known.

    model, pair, params: the towers of image and text, their specs, and the network's parameters.

    Raises:
      ValueError: they differ by more than `TOLERANCE`, or something is not finite.
    """
    try:
        import torch
        import transformers
    except ImportError as e:
        return f"not compared with transformers: {e.name} is not installed (`make … EXTRAS=torch,hf`)"

    theirs = transformers.AutoModel.from_pretrained(folder, dtype=torch.float32).eval()
    image, text = pair
    side, rng = theirs.config.vision_config.image_size, np.random.default_rng(0)
    pixels = rng.integers(0, 256, (len(TEXTS), side, side, image.shape[2]), dtype=np.uint8)
    normal = ((pixels / 255.0 - np.array(image.mean)) / np.array(image.std)).transpose(0, 3, 1, 2)
    given, ours = _texts(folder, text, theirs.config, rng)
    with torch.no_grad():
        said = theirs(pixel_values=torch.tensor(normal, dtype=torch.float32), **given)
    cut = pixels[:, : image.shape[0], : image.shape[1]]
    batch = {image.name: {"pixels": cut, "valid": np.ones(len(TEXTS), bool)}, text.name: ours}
    mine = _embed(model, pair, params, batch)
    far = {
        "pictures": furthest(mine[image.name], said.image_embeds.numpy()),
        "texts": furthest(mine[text.name], said.text_embeds.numpy()),
    }
    apart = " and ".join(f"{what} by {distance:.1e}" for what, distance in far.items())
    if not max(far.values()) <= TOLERANCE:
        cosine = (mine[text.name] * said.text_embeds.numpy()).sum(1).min()
        raise ValueError(
            f"{folder}: transformers says something else of it: embeddings differ, {apart} (texts: cosine {cosine:.3f}"
            f" at worst), more than {TOLERANCE:.0e}: is it a whole folder, with the tokenizer that it was trained with?"
        )
    return f"transformers says the same: embeddings of {len(TEXTS)} {apart} at most"


def _texts(folder, text, config, rng) -> tuple[dict, dict]:
    """(what their model is given, what ours is) of `TEXTS`; of random ids where the folder has no tokenizer."""
    import torch
    import transformers

    length = text.length
    if (Path(folder) / tokenizer_json.FILE).exists():
        tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
        made = tokenizer(list(TEXTS), padding="max_length", max_length=length, truncation=True, return_tensors="np")
        mine = text_tokenizers.make(text.tokenizer)
        rows = [mine.encode(t, length, keep_end=True) for t in TEXTS]
        valid = np.arange(length) < np.array([len(row) for row in rows])[:, None]
        theirs, ours = made["input_ids"], np.zeros(valid.shape, np.int32)
        ours[valid] = np.concatenate(rows)
    else:
        ends = config.text_config.eos_token_id
        ours = rng.integers(3, text.vocab_size, (len(TEXTS), length)).astype(np.int32)
        if ends is not None:  # 2 is the mistake of the first configs of CLIP: they pool at the greatest id
            end = text.vocab_size - 1 if ends == 2 else ends
            ours = np.where(ours == end, end - 1, ours)
            ours[:, -1] = end
        theirs, valid = ours, np.ones(ours.shape, bool)
    given = {"input_ids": torch.tensor(theirs, dtype=torch.int64)}
    if config.model_type == "clip":
        given["attention_mask"] = torch.tensor(valid.astype(np.int64))
    return given, {"ids": ours, "valid": valid}


def _embed(model: multimodal.Config, pair, params: dict, batch: dict) -> dict[str, np.ndarray]:
    """{modality: embeddings `[n, D]`} by our towers, in fp32."""
    names = tuple(m.name for m in pair)
    config = dataclasses.replace(model, dtype="float32")
    graph = nnx.split(nnx.eval_shape(lambda: Network(config, tuple(pair), names, nnx.Rngs(0))))[0]

    @jax.jit
    def run(params):
        network = nnx.merge(graph, params)
        nodes = {n: network.states.embedding(n, Leaf(Whole((n,), tuple(pair)))) for n in names}
        return compute(network, nodes, batch)

    with jax.default_matmul_precision("highest"):
        return jax.device_get(run(params))
