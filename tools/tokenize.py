"""Raw examples → a token store: python -m tools.tokenize --source=emoji --tokenizers=rgb=DIR,gray=DIR --out=DIR

Every modality that a tokenizer was trained on is tokenized in several crops, the same crops for all modalities of an
example; crop 0 is the whole image, and all that held-out splits get. Colour palettes are computed beside them.
"""

import argparse
import functools
import time

import numpy as np
import tqdm

from data_pipeline.image import apply_crop, crop_settings, palette
from data_pipeline.pipeline import read_image
from data_pipeline.sources.tokens import Writer
from pretrain import build
from pretrain.restore import load_tokenizer, read_run

MAX_COLOURS = 7


def tokenize_chunk(examples, tokenizers: dict, *, crops: int, size: int, palette_field: str) -> list[dict]:
    """Raw examples → records. tokenizers: {name: (Tokenizer, its pixel modalities)}."""
    settings = [crop_settings(np.random.default_rng(int(e["row"])), crops, size) for e in examples]
    ids = {}
    for tokenizer, modalities in tokenizers.values():
        for m in modalities:
            images = [read_image(e, m.field, s, size) for e, rows in zip(examples, settings) for s in rows]
            ids[m.name] = tokenizer.encode(np.stack(images)).reshape(len(examples), crops, -1)
    records = []
    for i, e in enumerate(examples):
        text = {k: v for k, v in e.items() if not isinstance(v, np.ndarray)}
        tokens = {name: rows[i].astype(np.int16 if rows.max() < 2**15 else np.int32) for name, rows in ids.items()}
        records.append(text | tokens | {"palettes": palettes(e[palette_field])})
    return records


def palettes(image) -> list[np.ndarray]:
    """The 1 … 7 dominant colours of an image. At half size: ten times faster, and colours do not need detail."""
    small = apply_crop(image, np.asarray([0, 0, *image.shape[:2], 0]), image.shape[0] // 2)
    return [palette(small, n) for n in range(1, MAX_COLOURS + 1)]


def parse_tokenizers(text: str) -> dict[str, str]:
    pairs = [p.partition("=") for p in text.split(",")]
    if not all(name and workdir for name, _, workdir in pairs):
        raise SystemExit(f"--tokenizers={text}: write NAME=WORKDIR,NAME=WORKDIR")
    return {name: workdir for name, _, workdir in pairs}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--source", required=True, help="a file of data_pipeline/sources, e.g. emoji")
    parser.add_argument("--tokenizers", required=True, help="NAME=WORKDIR,… of trained image tokenizers")
    parser.add_argument("--out", required=True, help="directory of the token store; must not hold one yet")
    parser.add_argument("--splits", default="train,val,test")
    parser.add_argument("--crops", type=int, default=8, help="aligned crops of a training example, the first one whole")
    parser.add_argument("--palette", default="render3d", help="the image field whose palette is taken")
    parser.add_argument("--licence", default="see data_pipeline/emoji_corpus/LICENSES")
    args = parser.parse_args()

    workdirs = parse_tokenizers(args.tokenizers)
    tokenizers = {name: (load_tokenizer(d), read_run(d).modalities) for name, d in workdirs.items()}
    size = next(iter(tokenizers.values()))[1][0].shape[0]
    about = {
        name: {"workdir": workdirs[name], "digest": t.digest, "vocab_size": t.vocab_size, "shape": t.grid,
               "modalities": [m.name for m in modalities]}
        for name, (t, modalities) in tokenizers.items()
    }  # fmt: skip
    writer = Writer(args.out, tokenizers=about, licence=args.licence)
    used = {name: set() for name in tokenizers}
    for split in args.splits.split(","):
        source = build.source(build.Data(args.source), split)
        convert = functools.partial(
            tokenize_chunk, tokenizers=tokenizers, crops=args.crops if split == "train" else 1, size=size,
            palette_field=args.palette,
        )  # fmt: skip
        start = time.perf_counter()
        writer.write_split(split, stream(source, convert, split, used, about))
        print(f"{split}: {len(source)} examples in {time.perf_counter() - start:.1f} s", flush=True)
    writer.close()
    for name, (tokenizer, _) in tokenizers.items():
        print(f"{name}: {len(used[name]) / tokenizer.vocab_size:.0%} of {tokenizer.vocab_size} codes used")


def stream(source, convert, split, used: dict, about: dict, chunk: int = 32):
    """Records of a source in order, chunk by chunk, with a progress bar; `used` collects each tokenizer's codes."""
    for start in tqdm.tqdm(range(0, len(source), chunk), desc=f"tokenize {split}", disable=None):
        records = convert([source[i] for i in range(start, min(start + chunk, len(source)))])
        for name, codes in used.items():
            codes.update(*(np.unique(r[m]).tolist() for r in records for m in about[name]["modalities"]))
        yield from records


if __name__ == "__main__":
    main()
