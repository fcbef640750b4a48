"""Grey, bilevel, transparent, palette, 16-bit pictures where colours are wanted, and maps beside them, by command."""

import base64
import io
import json
import sys

import numpy as np
import pytest
import toy_tokenize
from PIL import Image
from tars import write_tar

from data_pipeline.decoding import decode
from data_pipeline.sources import files, tokens, webdataset
from data_pipeline.stored import numbers
from tools.playground.session import read_picture
from tools.prepare.recipe import Recipe
from tools.tokenize import __main__ as tokenize

SIDE = 8
GREY = np.random.default_rng(0).integers(0, 256, (SIDE, SIDE), np.uint8)
DEPTH = np.random.default_rng(1).integers(0, 10_000, (SIDE, SIDE), np.uint16)
CLASSES = np.random.default_rng(2).integers(0, 9, (SIDE, SIDE), np.uint8)
MODES = {
    "L": Image.fromarray(GREY),
    "1": Image.fromarray(GREY).convert("1"),
    "LA": Image.fromarray(GREY).convert("LA"),
    "RGBA": Image.new("RGBA", (SIDE, SIDE), (200, 0, 100, 51)),
    "P": Image.fromarray(GREY.repeat(3).reshape(SIDE, SIDE, 3)).quantize(8),
    "I;16": Image.fromarray(GREY.astype(np.uint16) * 257),
}


def indexed() -> Image.Image:
    image = Image.fromarray(CLASSES)
    image.putpalette(np.random.default_rng(3).integers(0, 256, 768, np.uint8).tobytes())
    return image


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Pictures of every mode, twenty each, with label maps by palette."""
    folder, lines = tmp_path_factory.mktemp("modes"), []
    indexed().save(folder / "mask.png")
    for number in range(20 * len(MODES)):
        mode = list(MODES)[number % len(MODES)]
        MODES[mode].save(folder / f"{number}.png")
        lines.append(json.dumps({"image": f"{number}.png", "flat": f"{number}.png", "mask": "mask.png"}) + "\n")
    (folder / "train.jsonl").write_text("".join(lines))
    return folder


def test_tokenize_takes_them_all(folder, tmp_path, monkeypatch):
    toy_tokenize.install(monkeypatch.setattr)
    flags = ["--source=files", f"--path={folder}", f"--out={tmp_path / 'out'}", "--splits=train", "--crops=1"]
    flags += ["--tokenizers=rgb=w/rgb,mask=w/grey", "--max_failures=0"]
    monkeypatch.setattr(sys, "argv", ["tokenize", *flags])
    tokenize.main()
    store, tokenizer = tokens.Source(tmp_path / "out"), toy_tokenize.ToyTokenizer("rgb")
    assert len(store) == 20 * len(MODES)
    for number, mode in enumerate(MODES):
        found = store[number]
        look = decode(folder / f"{number}.png", "image", "here")
        colours = np.asarray(look if look.shape[2] == 3 else look.repeat(3, 2))[None]
        assert np.array_equal(found["rgb"], tokenizer.encode(colours)), mode
        assert np.array_equal(found["mask"], toy_tokenize.ToyTokenizer("grey").encode(CLASSES[None, ..., None]))
        assert len(found["palettes"]) == 7 and "image" not in found


def test_prepare_keeps_what_maps_hold(tmp_path):
    indexed().save(tmp_path / "mask.png")
    lines = []
    for number, image in enumerate(MODES.values()):
        image.save(tmp_path / f"{number}.png")
        Image.fromarray(DEPTH + number).save(tmp_path / f"depth{number}.png")
        lines.append({"image": f"{number}.png", "mask": "mask.png", "depth": f"depth{number}.png"})
    (tmp_path / "train.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    recipe = Recipe("image", (), 1, 0.0, 1, 0, ("depth",), ("image",), 4, 12.0, 0.8, 0, ("mask",), "png", 95,
                    (("palettes", "palettes"), ("about", "metadata")))  # fmt: skip
    source, members, met = files.Source(tmp_path), {}, set()
    for number in range(len(source)):
        example, _ = recipe.read(source, number)
        met |= {key for key, _ in recipe.signatures(example) if key[0] == "exact"}
        for suffix, content in recipe.members(example, recipe.open_labels()).items():
            members[f"{number}.{suffix}"] = content
    assert len(met) == len(MODES), "of depths that differ by a millimetre none is a duplicate"
    write_tar(tmp_path / "out" / "train-0.tar", members)
    made = webdataset.Source(tmp_path / "out")
    for number in range(len(made)):
        example = made[number]
        assert example["image"].dtype == np.uint8 and example["palettes"] and example["about"]["original_width"] == 8
        assert np.array_equal(example["mask"][..., 0], CLASSES)
        assert np.array_equal(numbers(example["depth"])[..., 0], DEPTH + number)


def test_resizing_keeps_16_bits():
    recipe = Recipe("image", (), 1, 0.0, 1, 0, (), (), 4, 12.0, 0.8, 4, ("mask",), "jpg", 95, ())
    sixteen = decode(io.BytesIO(png(Image.fromarray(DEPTH))), "image", "here")
    example = {"image": np.zeros((8, 8, 3), np.uint8), "depth": sixteen, "mask": sixteen, "row": 0}
    example, _ = recipe.read([example], 0)
    members = recipe.members(example, [])
    nearest, smooth = (
        numbers(decode(io.BytesIO(members[f"{k}.png"]), "image", "here"))[..., 0] for k in ("mask", "depth")
    )
    assert set(nearest.ravel()) <= set(DEPTH.ravel()) and nearest.shape == (4, 4)
    assert smooth.dtype == np.uint16 and smooth.max() > 4000 and abs(smooth.mean() - DEPTH.mean()) < 200


def png(image) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()


@pytest.mark.parametrize("mode", MODES)
def test_the_playground_takes_them_all(mode):
    url = "data:image/png;base64," + base64.b64encode(png(MODES[mode])).decode()
    colour, grey = (read_picture("rgb", url, channels) for channels in (3, 1))
    assert colour.shape == (SIDE, SIDE, 3) and grey.shape == (SIDE, SIDE, 1)
    if mode == "RGBA":
        assert np.abs(colour.astype(int) - (244, 204, 224)).max() <= 1
    elif mode in ("L", "LA", "I;16"):
        assert np.array_equal(grey[..., 0], GREY) and np.array_equal(colour, grey.repeat(3, 2))


@pytest.mark.parametrize(
    "url", ["", "data:image/png;base64,!!!", "data:image/png;base64," + base64.b64encode(b"%!PS").decode()]
)
def test_the_playground_refuses_what_is_no_picture(url):
    with pytest.raises(ValueError, match=r"given 'rgb': is no picture \(.*\); upload a PNG"):
        read_picture("rgb", url, 3)
