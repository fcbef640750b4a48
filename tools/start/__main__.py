"""python -m tools.start FOLDER: looks at pictures and texts, and writes a config that trains on them.

FOLDER holds SPLIT.jsonl or SPLIT/CLASS (`data_pipeline.sources.files`), tars of webdataset or of 4M, or Parquet files.
Of a folder that has only pictures, with a text beside each, a table that names them, or folders of classes, it writes
`train.jsonl` and `val.jsonl` there. What was found is said, then what to run, in order.
"""

import argparse
import itertools
import sys
from pathlib import Path

from data_pipeline import text_tokenizers
from pretrain import build
from pretrain.data import Data
from pretrain.storage import write as write_file
from tools.start import config, look
from tools.train_text_tokenizer import texts_of, train

OWN = 5000  # texts from which a tokenizer of one's own is learnt
VOCABULARY = 12_000
READ = 20_000  # texts whose length is counted


def text_tokenizer(found, field: str, file: Path) -> tuple[str, int, int]:
    """(name, vocabulary, tokens that hold nearly all texts) of the packaged tokenizer, or of one that is learnt of so
    many texts, and written beside the config."""
    split = next(iter(found.splits))
    texts = list(itertools.islice(texts_of(build.source(Data(found.source, found.path), split), (field,)), 10**6))
    name = text_tokenizers.PACKAGED
    if len(set(texts)) >= OWN:
        name = str(file.with_name(f"{file.stem}_text.model").resolve())
        if Path(name).exists():
            raise ValueError(f"{name}: is there already: remove it, or give another --out")
        write_file(name, train(VOCABULARY, texts, at_most=True))
    made = text_tokenizers.make(name)
    return name, made.vocab_size, config.text_length(len(made.encode(t, 10**6)) for t in texts[:READ])


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", help="of pictures and texts")
    parser.add_argument("--out", type=Path, help="the config to write; NAME.py of the folder's name if not given")
    parser.add_argument("--objective", default="contrastive", help=f"one of {', '.join(config.OBJECTIVES)}")
    parser.add_argument("--val", type=float, default=0.1, help="share held out, of a folder that gets its lists here")
    args = parser.parse_args(argv)
    name = "".join(c if c.isalnum() else "_" for c in Path(args.folder).expanduser().resolve().name)
    out = args.out or Path(f"{name}.py")
    if out.suffix != ".py":
        parser.error(f"--out={out}: a config is a file of Python: call it {out.stem}.py")
    if out.exists():
        parser.error(f"--out={out}: is there already: name another, or remove it")
    if not 0 < args.val < 1:
        parser.error(f"--val={args.val}: must be a share, above 0 and below 1")
    if args.objective not in config.OBJECTIVES:
        parser.error(f"--objective={args.objective}: must be one of {', '.join(config.OBJECTIVES)}")
    try:
        found = look.look(args.folder, args.val)
        _, text = found.pair()
        tokenizer = text_tokenizer(found, text.name, out)
        chosen = config.choose(found, args.objective, *tokenizer, on_cpu=_on_cpu())
    except (ValueError, FileNotFoundError) as e:
        sys.exit(f"{parser.prog}: {e}")
    splits = ", ".join(f"{count:,} in {split}" for split, count in found.splits.items())
    print(f"{found.path}: read by the source `{found.source}`: {splits}")
    for field in found.fields:
        print(f"  {field}")
    if found.report:
        print(f"  {found.report}")
    write_file(out, config.write(out, found, chosen))
    print(f"{out}: {chosen.objective}, of `{chosen.picture}` and `{chosen.text}`; now run")
    for command in config.commands(out, found, chosen):
        print(f"  {command}")


def _on_cpu() -> bool:
    import jax

    return jax.default_backend() == "cpu"


if __name__ == "__main__":
    main()
