"""Tokenizer files of a Hugging Face folder: `tokenizer.json` and what belongs to it, copied or made from SentencePiece.

They are plain JSON: writing them needs neither `tokenizers` nor `transformers`.
"""

import base64
import json
import shutil
from pathlib import Path

from data_pipeline import text_tokenizers
from data_pipeline.spec import Modality
from data_pipeline.text import SPECIAL_TOKENS

FILE, CONFIG = "tokenizer.json", "tokenizer_config.json"
MAP = "special_tokens_map.json"
FILES = (FILE, CONFIG, MAP, "added_tokens.json", "spiece.model", "vocab.json", "merges.txt")
OURS = dict(pad_token="[PAD]", unk_token="[UNK]", bos_token="[SOS]", eos_token="[EOS]")
_NEVER = -1e4  # log probability of a piece that no text is cut into


# Where the tokenizer.json made of a SentencePiece model gives other ids than that.
LIMITS = (
    "It gives the ids of the training on all texts of the emoji corpus, in all languages, and on every single "
    "character. Known to differ: `[PAD]`, `[UNK]`, `[SOS]`, `[EOS]` and `<0x41>` written out in a text become one "
    "token; and a capital or compatibility character before a combining mark that does not compose with it may lose "
    "the mark."
)


def copy(source, out):
    """Copies what the folder `source` has of `FILES` to the folder `out`."""
    for name in FILES:
        if (Path(source) / name).exists():
            shutil.copyfile(Path(source) / name, Path(out) / name)


def read(text: Modality) -> tuple[dict | None, dict]:
    """(tokenizer.json, tokenizer_config.json) as dicts, of the tokenizer of a modality; (None, {}) if it has none."""
    if (model := text_tokenizers.sentencepiece_model(text.tokenizer)) is not None:
        return from_sentencepiece(model), dict(OURS)
    file = Path(text.tokenizer)
    if file.suffix != ".json":
        return None, {}
    if not file.exists():
        raise FileNotFoundError(f"modality {text.name!r}: tokenizer={text.tokenizer!r}: no such file; put it back")
    beside = file.with_name(CONFIG)
    # A file of another name may lie beside those of others.
    mine = file.name == FILE and beside.exists()
    return json.loads(file.read_text()), json.loads(beside.read_text()) if mine else {}


def write(out, text: Modality, pad_id: int | None, inputs: list[str]) -> bool:
    """Writes the tokenizer of a modality into the folder `out`; False if it has none that could be written.

    pad_id: what pads, None for what the tokenizer says; inputs: what the model is given of it.
    """
    tokenizer, config = read(text)
    if tokenizer is None:
        return False
    names = {i: token for token, i in vocabulary(tokenizer).items()}
    if pad_id is not None and pad_id not in names:
        raise ValueError(f"modality {text.name!r}: pad_id={pad_id}: {text.tokenizer!r} has no such token to pad with")
    out = Path(out)
    if text_tokenizers.sentencepiece_model(text.tokenizer) is not None:
        (out / FILE).write_text(json.dumps(tokenizer, ensure_ascii=False))
    elif Path(text.tokenizer).name == FILE:
        copy(Path(text.tokenizer).parent, out)
    else:
        shutil.copyfile(text.tokenizer, out / FILE)
    config = dict(tokenizer_class="PreTrainedTokenizerFast", model_input_names=inputs) | config
    config.setdefault("model_max_length", text.length)
    special = special_ids(text)
    for key in ("pad_token", "eos_token"):
        if config.get(key) is None and key in special:
            config[key] = names[special[key]]
    if pad_id is not None and special.get("pad_token") != pad_id:
        config["pad_token"] = names[pad_id]
        (out / MAP).unlink(missing_ok=True)  # it would say otherwise
    (out / CONFIG).write_text(json.dumps(config, indent=2, ensure_ascii=False) + "\n")
    return True


def special_ids(text: Modality) -> dict[str, int]:
    """{`eos_token`, `bos_token`, `pad_token`: id} of those that the modality's tokenizer has."""
    tokenizer, config = read(text)
    if tokenizer is None:
        return {}
    ids, out = vocabulary(tokenizer), {}
    for key in ("bos_token", "eos_token", "pad_token"):
        token = config.get(key)
        token = token["content"] if isinstance(token, dict) else token
        if token in ids:
            out[key] = ids[token]
    if "eos_token" not in out:
        last = _appended(tokenizer.get("post_processor") or {})
        out |= {} if last is None else {"eos_token": last}
    return out


def padding(folder) -> tuple[int | None, str]:
    """(the id that the tokenizer of a folder pads with, None if it does not say; the side on which it pads)."""
    files = (Path(folder) / name for name in (FILE, CONFIG, MAP))
    tokenizer, config, special = (json.loads(f.read_text()) if f.exists() else {} for f in files)
    token = config.get("pad_token") or special.get("pad_token")
    token = token["content"] if isinstance(token, dict) else token
    found = vocabulary(tokenizer).get(token) if tokenizer else None
    given = tokenizer.get("padding") or {}
    return given.get("pad_id") if found is None else found, config.get("padding_side") or "right"


def vocabulary(tokenizer: dict) -> dict[str, int]:
    """{token: id} of a tokenizer.json."""
    vocab = tokenizer["model"].get("vocab", {})
    if isinstance(vocab, list):
        vocab = {token: i for i, (token, _) in enumerate(vocab)}
    return vocab | {t["content"]: t["id"] for t in tokenizer.get("added_tokens", ())}


def _appended(post: dict) -> int | None:
    """The id that a post-processor puts after a text."""
    if post.get("type") == "Sequence":
        found = [i for i in map(_appended, post["processors"]) if i is not None]
        return found[-1] if found else None
    if post.get("type") in ("RobertaProcessing", "BertProcessing"):
        return post["sep"][1]
    if post.get("type") == "TemplateProcessing" and "SpecialToken" in post["single"][-1]:
        return post["special_tokens"][post["single"][-1]["SpecialToken"]["id"]]["ids"][-1]
    return None


def from_sentencepiece(model: bytes) -> dict:
    """The tokenizer.json that gives the ids of `TextTokenizer` of a model, up to `LIMITS`."""
    from sentencepiece import sentencepiece_model_pb2

    proto = sentencepiece_model_pb2.ModelProto.FromString(model)
    kinds = proto.SentencePiece
    best = max(p.score for p in proto.pieces if p.type == kinds.NORMAL)

    def score(piece):
        if piece.type == kinds.NORMAL:
            return piece.score
        # SentencePiece prefers user-defined symbols to any pieces, and cuts no text into control pieces and bytes.
        return len(piece.piece) * best - 0.1 if piece.type == kinds.USER_DEFINED else _NEVER

    # Ours drops the space before a special token: lstrip.
    added = [
        dict(id=i, content=token, single_word=False, lstrip=i > 3, rstrip=False, normalized=False, special=i <= 3)
        for i, token in enumerate(SPECIAL_TOKENS)
    ]
    charsmap = base64.b64encode(proto.normalizer_spec.precompiled_charsmap).decode()
    eos, first = OURS["eos_token"], {"Sequence": {"id": "A", "type_id": 0}}
    return dict(
        version="1.0", truncation=None, padding=None, added_tokens=added,
        normalizer=dict(type="Sequence", normalizers=[
            dict(type="Precompiled", precompiled_charsmap=charsmap),
            dict(type="Replace", pattern=dict(Regex=" {2,}"), content=" "),
            dict(type="Replace", pattern=dict(Regex=" $"), content=""),
        ]),
        pre_tokenizer=dict(type="Metaspace", replacement="▁", prepend_scheme="first", split=False),
        post_processor=dict(
            type="TemplateProcessing",
            single=[first, {"SpecialToken": {"id": eos, "type_id": 0}}],
            pair=[first, {"Sequence": {"id": "B", "type_id": 1}}],
            special_tokens={eos: dict(id=eos, ids=[3], tokens=[eos])},
        ),
        decoder=dict(type="Sequence", decoders=[
            dict(type="Replace", pattern=dict(String="▁"), content=" "),
            dict(type="ByteFallback"), dict(type="Fuse"), dict(type="Strip", content=" ", start=1, stop=0),
        ]),
        model=dict(
            type="Unigram", unk_id=1, byte_fallback=True, vocab=[[p.piece, score(p)] for p in proto.pieces]
        ),
    )  # fmt: skip
