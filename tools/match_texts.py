"""Texts on classes → those that fit each picture: python -m tools.match_texts --checkpoint=WORKDIR --path=DIR …

GIST (arXiv 2307.11315): a language model wrote many captions of each class, and each picture is given the few of its
own class that a network of pictures and texts, such as CLIP (`tools.convert` makes a WORKDIR of it), finds nearest.

DIR/SPLIT.jsonl is a folder of `data_pipeline.sources.files`; --captions a JSON file {class: [texts]}, by the values of
the field --label. DIR/OUT.jsonl has the same lines with the --k texts in the field --to, each as `--template` writes it
of class and text; train on it by `--config.data.train=OUT`. Lines without a picture are left out.
"""

import argparse
import json
from pathlib import Path

import numpy as np

from data_pipeline.matched import match
from pretrain.evals.features import embed_texts, represent, unit
from pretrain.evals.harness import open_run


def parse_args(argv=None):
    parser = argparse.ArgumentParser(
        prog="python -m tools.match_texts", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--checkpoint", required=True, help="the workdir of a network that embeds pictures and texts")
    add("--path", required=True, help="the folder of pictures")
    add("--captions", required=True, help="a JSON file {class: [texts]}")
    add("--label", required=True, help="the field that says the class of an example")
    add("--split", default="train", help="which SPLIT.jsonl is read")
    add("--out", default="matched", help="which OUT.jsonl is written beside it")
    add("--to", default="caption", help="the field that the texts are written into")
    add("--k", type=int, default=4, help="texts of a picture")
    add("--template", default="{label}: {text}", help="how a text is written")
    add("--image", default="image", help="the network's modality of pictures, and the field they are in")
    add("--text", default="text", help="its modality of texts")
    return parser.parse_args(argv)


def read_captions(path) -> tuple[list[str], list[str]]:
    """(texts, the class of each). ValueError unless it is {class: [texts]}."""
    try:
        found = json.loads(Path(path).read_text())
    except ValueError as e:
        raise ValueError(f"--captions={path}: no JSON ({e})") from e
    listed = isinstance(found, dict) and all(isinstance(texts, list) for texts in found.values())
    if not listed or not all(isinstance(text, str) and text for texts in found.values() for text in texts):
        raise ValueError(f"--captions={path}: must hold {{class: [texts]}}, every text a string that is not empty")
    pairs = [(text, name) for name, texts in found.items() for text in texts]
    return [text for text, _ in pairs], [name for _, name in pairs]


def matched(args) -> dict[int, list[str]]:
    """{row of the split: its texts}."""
    texts, given = read_captions(args.captions)
    data = dict(source="files", path=args.path, fields={args.image: args.image})
    restored, context = open_run(args.checkpoint, data=data)
    for flag in ("image", "text"):
        if getattr(args, flag) not in context.embedded:
            known = ", ".join(context.embedded) or "none"
            raise ValueError(f"--{flag}={getattr(args, flag)}: {args.checkpoint} embeds {known}")
    rows, z = represent(context, restored.params, args.image, args.split, "z")
    column = context.column(args.label, args.split, "--label")
    wanted = [str(column[row]) for row in rows.tolist()]
    similarity = unit(z) @ unit(embed_texts(context, restored.params, args.text, texts)).T
    chosen = match(similarity, wanted, given, args.k)
    write = lambda label, number: args.template.replace("{label}", label).replace("{text}", texts[number])
    return {row: [write(w, i) for i in own] for row, w, own in zip(rows.tolist(), wanted, chosen.tolist())}


def main(argv=None):
    args = parse_args(argv)
    if "{text}" not in args.template:
        raise ValueError(f"--template={args.template}: needs {{text}} where the text goes")
    if args.out == args.split:
        raise ValueError(f"--out={args.out}: would be written over what is read; give it another name")
    found = matched(args)
    lines = [line for line in (Path(args.path) / f"{args.split}.jsonl").read_text().splitlines() if line.strip()]
    kept = [json.loads(line) | {args.to: found[row]} for row, line in enumerate(lines) if row in found]
    target = Path(args.path) / f"{args.out}.jsonl"
    target.write_text("".join(json.dumps(line, ensure_ascii=False) + "\n" for line in kept))
    used = len(np.unique([text for texts in found.values() for text in texts]))
    print(f"{target}: {len(kept)} of {len(lines)} examples, {args.k} texts each, {used} different ones")


if __name__ == "__main__":
    main()
