"""A trained embedder → its hard negatives as a folder that a later run reads: python -m tools.mine_negatives …

MM-Embed (arXiv 2411.02571): of the candidates of all tasks that the embedder of --checkpoint finds nearest to a
query, those of the wrong kind before the right one, and those of the right kind far behind (`data_pipeline.mined`).

The run's data are tasks as the transform `instructed` reads them. DIR/SPLIT.jsonl has an example of each as a line, its
pictures as files of DIR/pictures, its negatives as TEXT/negative1, IMAGE/negative1, … in the place of what it had; an
example that has none keeps none. Read it by `data=dict(source="files", path=DIR, …)` with the same transform.
"""

import argparse
import hashlib
import json
from pathlib import Path

import numpy as np
from PIL import Image

from data_pipeline.mined import hard_negatives
from data_pipeline.transforms import instructed
from pretrain.evals import mixed_pool
from pretrain.evals.harness import open_run


def parse_args(argv=None):
    parser = argparse.ArgumentParser(
        prog="python -m tools.mine_negatives", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--checkpoint", required=True, help="the workdir of the embedder")
    add("--path", required=True, help="the folder that is written")
    add("--split", default="train", help="of the run's data, and what the file is called")
    add("--part", default="project", help="the part of the network that embeds")
    add("--wrong", type=int, default=1, help="negatives of a wrong kind")
    add("--right", type=int, default=1, help="negatives of the right kind")
    add("--top", type=int, default=50, help="of so many nearest candidates")
    add("--below", type=int, default=45, help="those of the right kind behind so many")
    return parser.parse_args(argv)


def main(argv=None):
    args = parse_args(argv)
    folder = Path(args.path)
    if (folder / f"{args.split}.jsonl").exists():
        raise ValueError(f"--path={args.path}: {args.split}.jsonl is there already; name another folder")
    restored, context = open_run(args.checkpoint)
    tasks = next((t for t in context.run.data.transforms if isinstance(t, instructed.Transform)), None)
    if tasks is None:
        raise ValueError(f"--checkpoint={args.checkpoint}: its data are no tasks: no transform `instructed`")
    mixed_pool.check(context, args.part, "positive", "mine_negatives")
    pool = mixed_pool.search(context, restored.params, args.part, "positive", args.split)
    chosen = np.concatenate([
        hard_negatives(
            pool.queries[at : at + 1024] @ pool.candidates.T, pool.own[at : at + 1024], pool.kind, wrong=args.wrong,
            right=args.right, top=args.top, below=args.below,
        ) for at in range(0, len(pool.own), 1024)
    ])  # fmt: skip
    if (chosen < 0).all():
        raise ValueError(f"--top={args.top}, --below={args.below}: no query has such negatives; lower --below")
    write(folder, args.split, context.source(args.split), tasks, pool, chosen)
    of = {name: int((chosen[:, part] >= 0).sum()) for name, part in
          (("wrong", slice(args.wrong)), ("right", slice(args.wrong, None)))}  # fmt: skip
    print(f"{folder / args.split}.jsonl: {len(chosen)} queries, {len(pool.kind)} candidates of {', '.join(pool.kinds)}")
    print(f"negatives of a wrong kind: {of['wrong']}, of the right kind: {of['right']}")


def write(folder: Path, split: str, source, tasks: instructed.Transform, pool, chosen):
    """A line for each query: its own fields, and `chosen` `[n, k]` candidates, −1 for none."""
    (folder / "pictures").mkdir(parents=True, exist_ok=True)
    both, lines = (tasks.text, tasks.image), []
    for row, numbers in zip(pool.row.tolist(), chosen.tolist()):
        example = source[row]
        shown = {f: example.get(f) for f in (tasks.instruction, *both, *(f"{f}/positive" for f in both))}
        for i, number in enumerate(n for n in numbers if n >= 0):
            other = source[int(pool.first[number])]
            shown |= {f"{f}/negative{i + 1}": other.get(f"{f}/positive") for f in both}
        lines.append(json.dumps({f: _told(folder, x) for f, x in shown.items() if x is not None}, ensure_ascii=False))
    (folder / f"{split}.jsonl").write_text("".join(f"{line}\n" for line in lines))


def _told(folder: Path, value):
    """A text as it is; a picture as the name of its file, which is written once."""
    if isinstance(value, str):
        return value
    picture = np.asarray(value)
    name = f"pictures/{hashlib.sha256(f'{picture.shape}'.encode() + picture.tobytes()).hexdigest()[:24]}.png"
    if not (folder / name).exists():
        Image.fromarray(picture[..., 0] if picture.shape[-1] == 1 else picture).save(folder / name)
    return name


if __name__ == "__main__":
    main()
