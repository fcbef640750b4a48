"""One small data set for each source that reads a folder, for what holds of all of them."""

import json

import numpy as np
from tars import encode, picture, write_tar

from data_pipeline.sources import files, parquet, tar_tree, tokens, webdataset

SOURCES = {
    "lines": files.Source,
    "classes": files.Source,
    "parquet": parquet.Source,
    "webdataset": webdataset.Source,
    "tar_tree": tar_tree.Source,
    "tokens": tokens.Source,
}


def write(kind: str, folder, split: str = "train", count: int = 3):
    """`count` examples in a split: {image, caption}, of classes {image, label}, of tokens {ids, caption}."""
    captions, images = [f"number {i}" for i in range(count)], [picture(i) for i in range(count)]
    folder.mkdir(parents=True, exist_ok=True)
    if kind == "lines":
        (folder / "imgs").mkdir(exist_ok=True)
        names = [f"imgs/{split}{i}.png" for i in range(count)]
        for name, image in zip(names, images):
            (folder / name).write_bytes(encode(name, image))
        rows = [{"image": name, "caption": caption} for name, caption in zip(names, captions)]
        (folder / f"{split}.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    elif kind == "classes":
        for i, image in enumerate(images):
            (folder / split / "cat").mkdir(parents=True, exist_ok=True)
            (folder / split / "cat" / f"{i}.png").write_bytes(encode("a.png", image))
    elif kind == "parquet":
        import pyarrow
        import pyarrow.parquet

        rows = [{"image": encode("a.png", image), "caption": caption} for image, caption in zip(images, captions)]
        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), folder / f"{split}-0.parquet")
    elif kind == "webdataset":
        members = {f"{i:03d}.png": image for i, image in enumerate(images)}
        write_tar(folder / f"{split}-0.tar", members | {f"{i:03d}.txt": c for i, c in enumerate(captions)})
    elif kind == "tar_tree":
        write_tar(folder / split / "image" / "shard-0.tar", {f"{i:03d}.png": image for i, image in enumerate(images)})
        write_tar(folder / split / "caption" / "shard-0.tar", {f"{i:03d}.txt": c for i, c in enumerate(captions)})
    else:
        store(
            folder, {split: [{"row": np.int64(i), "ids": np.arange(4), "caption": c} for i, c in enumerate(captions)]}
        )
    return folder


def store(folder, splits: dict):
    """A token store. splits: {name: records}."""
    writer = tokens.Writer(folder, tokenizers={}, licence="none", shard_size=2)
    for split, records in splits.items():
        writer.write_split(split, records)
    writer.close()


def data_file_of(kind: str, folder):
    """A file of the split train that its source opens."""
    pattern = {"lines": "train.jsonl", "classes": "train/cat/1.png", "parquet": "*.parquet", "webdataset": "*.tar",
               "tar_tree": "train/image/*.tar", "tokens": "train-00001*"}[kind]  # fmt: skip
    return next(iter(folder.glob(pattern)))
