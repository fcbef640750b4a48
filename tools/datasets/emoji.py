"""Rebuilds the packaged emoji corpus from npm packages.

    python -m tools.datasets.emoji --work DIR --out DIR [--check]

`--work` keeps the unpacked npm packages between runs, `--out` receives the atlases, `meta.jsonl.gz`, `NOTICE.txt` and
`SHA256SUMS`. `--check` then compares them with the files in `data_pipeline/emoji_corpus`, says which differ, and exits
with 1 if any does. Takes about 80 s on one core. Needs npm on the PATH, resvg-py, and a Pillow with AVIF and Raqm.

The bytes depend on the codecs and rasterisers inside the wheels. Pillow 13.0.0 (libavif 1.4.2, libwebp 1.6.0, FreeType
2.14.3) with resvg-py 0.5.0 reproduces every packaged file; Pillow 11.3.0 encodes all
but the mask differently.
"""

import argparse
import collections
import gzip
import hashlib
import importlib.resources
import io
import json
import re
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont, features

from data_pipeline.sources.emoji import CELL, COLUMNS
from data_pipeline.text import LANGUAGES

PACKAGES = {
    "flat": "@iconify-json/fluent-emoji-flat@1.2.6",
    "line": "@iconify-json/fluent-emoji-high-contrast@1.2.6",
    "noto": "@iconify-json/noto@1.2.9",
    "render3d": "@lobehub/fluent-emoji-3d@1.1.0",
    "font": "@expo-google-fonts/noto-emoji@0.4.7",
    "emojibase": "emojibase-data@17.0.0",
    "annotations": "cldr-annotations-full@48.2.0",
    "annotationsDerived": "cldr-annotations-derived-full@48.2.0",
}
FONT = "400Regular/NotoEmoji_400Regular.ttf"
COMPONENTS = 2  # the emojibase group of skin tones and hair, which are not emoji of their own

# Code points by which variants of one emoji differ: people, gender signs, the joiner.
VARIANT_CODES = frozenset(
    ["1f468", "1f469", "1f9d1", "1f474", "1f475", "1f9d3", "1f466", "1f467", "1f9d2", "1f471", "2640", "2642", "200d"]
)
PERSON_WORDS = re.compile(r"\b(man|woman|person|men|women|people|male|female)\b")

NOTICE = """\
render3d, flat, line, mask: Fluent Emoji, Copyright (c) Microsoft Corporation, MIT License \
(3D files via @lobehub/fluent-emoji-3d, MIT, Copyright (c) 2023 LobeHub).
noto: Noto Emoji SVG, Copyright Google Inc., Apache License 2.0.  \
mono: rasterised from the Noto Emoji font, SIL OFL 1.1.
names, keywords: Unicode CLDR 48.2, Unicode License V3, Copyright (c) 2004-2026 Unicode, Inc.  \
group, subgroup, order: emojibase-data, MIT, Copyright (c) 2017-2019 Miles Johnson.
The full licence texts must accompany this file.
"""


# --- sources -------------------------------------------------------------------------------------------------------


def check_requirements() -> None:
    """Raises SystemExit with the remedy if a program or library is missing."""
    if shutil.which("npm") is None:
        raise SystemExit("npm is not on the PATH: install Node.js (https://nodejs.org) and run again.")
    try:
        import resvg_py  # noqa: F401
    except ImportError:
        raise SystemExit("resvg-py is missing: pip install resvg-py") from None
    for feature in ("avif", "webp", "raqm"):
        if not features.check(feature):
            raise SystemExit(f"this Pillow lacks {feature!r}: pip install 'pillow>=11.3' (a wheel, not a source build)")


def fetch(spec: str, folder: Path) -> Path:
    """Downloads and unpacks the npm package `spec` into `folder`, unless it is there already."""
    if folder.is_dir():
        return folder
    print(f"fetching {spec}", flush=True)
    command = ["npm", "pack", "--silent", spec]
    packed = subprocess.run(command, cwd=folder.parent, capture_output=True, text=True, check=False)
    if packed.returncode != 0:
        raise SystemExit(f"npm pack {spec} failed: check the network and the npm registry.\n{packed.stderr}")
    archive = folder.parent / packed.stdout.split()[-1]
    # Unpack beside and rename, so that an interrupted run leaves no half-filled folder behind.
    partial = folder.with_name(folder.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)
    with tarfile.open(archive) as tar:
        for member in tar.getmembers():
            member.name = member.name.split("/", 1)[-1]
            tar.extract(member, partial, filter="data")
    archive.unlink()
    return partial.rename(folder)


def read_json(path: Path) -> dict | list:
    return json.loads(path.read_text(encoding="utf8"))


def without_variation_selector(hexcode: str) -> str:
    """The key under which all packages agree: `2764-fe0f` and `2764` are one emoji."""
    return "-".join(code for code in hexcode.lower().split("-") if code != "fe0f")


def read_icons(folder: Path) -> dict[str, str]:
    """Reads an Iconify package: hexcode -> SVG document."""
    icon_set, names, documents = read_json(folder / "icons.json"), read_json(folder / "chars.json"), {}
    for hexcode, name in names.items():
        if name not in icon_set["icons"]:
            name = icon_set.get("aliases", {}).get(name, {}).get("parent")
        icon = icon_set["icons"].get(name)
        if icon is None:
            continue
        box = {"width": 16, "height": 16, "left": 0, "top": 0}
        width, height, left, top = (icon.get(key, icon_set.get(key, default)) for key, default in box.items())
        documents[without_variation_selector(hexcode)] = (
            '<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" '
            f'viewBox="{left} {top} {width} {height}" width="{width}" height="{height}" color="#000">'
            f"{icon['body']}</svg>"
        )
    return documents


# --- images --------------------------------------------------------------------------------------------------------


def centre(image: Image.Image) -> Image.Image:
    """Centres an RGBA image on the transparent double-size canvas, then halves it: 2x supersampling."""
    side = 2 * CELL
    canvas = Image.new("RGBA", (side, side))
    canvas.paste(image, ((side - image.width) // 2, (side - image.height) // 2))
    return canvas.resize((CELL, CELL), Image.Resampling.BOX)


def draw_svg(document: str) -> Image.Image:
    """Renders an SVG document as an RGBA cell."""
    import resvg_py

    side = 2 * CELL
    png = bytes(resvg_py.svg_to_bytes(svg_string=document, width=side, height=side))
    image = Image.open(io.BytesIO(png)).convert("RGBA")
    image.thumbnail((side, side))  # resvg keeps the aspect ratio of a drawing that is not square
    return centre(image)


def draw_glyph(char: str, font: ImageFont.FreeTypeFont) -> Image.Image:
    """Renders a glyph of the monochrome font, scaled to fill the cell, as an RGBA cell."""
    image = Image.new("RGBA", (6 * CELL, 4 * CELL))
    ImageDraw.Draw(image).text((CELL, CELL // 2), char, font=font, fill=(0, 0, 0, 255))
    image = image.crop(image.getbbox())
    scale = min(2 * CELL / image.width, 2 * CELL / image.height) * 0.98
    size = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
    return centre(image.resize(size, Image.Resampling.LANCZOS))


def on_white(rgba: np.ndarray) -> np.ndarray:
    """uint8[N, H, W, 4] -> uint8[N, H, W, 3] over a white background."""
    rgb = np.empty((*rgba.shape[:3], 3), np.uint8)
    for i, image in enumerate(rgba):
        alpha = image[..., 3:].astype(np.float32) / 255
        rgb[i] = (image[..., :3] * alpha + 255 * (1 - alpha) + 0.5).astype(np.uint8)
    return rgb


def to_atlas(cells: np.ndarray) -> Image.Image:
    """uint8[N, CELL, CELL, ...] -> one image of COLUMNS columns, the rest of the last row white."""
    rows = -(-len(cells) // COLUMNS)
    atlas = np.full((rows * CELL, COLUMNS * CELL, *cells.shape[3:]), 255, np.uint8)
    for i, cell in enumerate(cells):
        top, left = i // COLUMNS * CELL, i % COLUMNS * CELL
        atlas[top : top + CELL, left : left + CELL] = cell
    return Image.fromarray(atlas)


def save_atlases(style: str, rgba: np.ndarray, out: Path) -> None:
    """Writes the atlas of a style, uint8[N, CELL, CELL, 4]; for `render3d` also the mask."""
    alpha = rgba[..., 3]
    if style in ("line", "mono"):
        grey = (np.round(np.asarray(to_atlas(255 - alpha)) / 17) * 17).astype(np.uint8)  # 16 levels compress well
        Image.fromarray(grey).save(out / f"{style}.webp", lossless=True, method=6)
        return
    # libavif tiles an image only if it has several threads: a fixed number gives the same bytes on every machine.
    to_atlas(on_white(rgba)).save(out / f"{style}.avif", quality=85, subsampling="4:4:4", speed=6, max_threads=2)
    if style == "render3d":
        mask = to_atlas(np.where(alpha >= 128, 0, 255).astype(np.uint8))
        mask.convert("1").save(out / "mask.png", optimize=True)


# --- text ----------------------------------------------------------------------------------------------------------


def read_annotations(packages: dict[str, Path], language: str) -> tuple[dict[str, str], dict[str, list[str]]]:
    """Reads CLDR's names and keywords of a language, by character."""
    names, keywords = {}, {}
    for kind in ("annotationsDerived", "annotations"):  # the hand-written ones last: they win
        entries = read_json(packages[kind] / kind / language / "annotations.json")[kind]["annotations"]
        for char, entry in entries.items():
            char = char.replace("\ufe0f", "")
            if entry.get("tts"):
                names[char] = entry["tts"][0]
            if entry.get("default"):
                keywords[char] = entry["default"]
    return names, keywords


def family(row: dict) -> str:
    """The name under which near-duplicates meet, so that they share a split."""
    name = row["name"]["en"]
    if row["subgroup"] == "time" and ("o’clock" in name or "thirty" in name):
        return "clock-face"
    if name.startswith("keycap"):
        return "keycap"
    if "moon" in name and "weather" in row["subgroup"]:
        return "moon"
    if row["subgroup"] == "cat faces":
        return "catface"
    if row["group"] == "people & body":
        return PERSON_WORDS.sub("P", name)
    return "-".join(code for code in row["id"].split("-") if code not in VARIANT_CODES) or row["id"]


def split(family_name: str) -> str:
    """Draws a tenth of the families each for test and val, by hash."""
    bucket = int(hashlib.sha256(f"v1{family_name}".encode()).hexdigest(), 16) % 10
    return {0: "test", 1: "val"}.get(bucket, "train")


def metadata(emoji: dict[str, dict], packages: dict[str, Path]) -> list[dict]:
    """One row per emoji; `emoji` maps hexcode to the emojibase entry."""
    messages = read_json(packages["emojibase"] / "en/messages.json")
    groups, subgroups = ({m["order"]: m["message"] for m in messages[kind]} for kind in ("groups", "subgroups"))
    annotations = {language: read_annotations(packages, language) for language in LANGUAGES}
    english_names, english_keywords = annotations["en"]
    rows = []
    for hexcode, entry in emoji.items():
        char = entry["emoji"].replace("\ufe0f", "")
        row = {
            "id": hexcode,
            "char": entry["emoji"],
            "version": entry["version"],
            "group": groups[entry["group"]],
            "subgroup": subgroups[entry["subgroup"]],
            "name": {language: names[char] for language, (names, _) in annotations.items() if char in names},
            "keywords": {"en": [word for word in english_keywords.get(char, []) if word != english_names[char]]},
        }
        row["family"] = family(row)
        row["split"] = split(row["family"])
        rows.append(row)
    return rows


# --- program -------------------------------------------------------------------------------------------------------


def build(work: Path, out: Path) -> None:
    """Builds the corpus into `out`; `work` keeps the downloads."""
    work.mkdir(parents=True, exist_ok=True)
    out.mkdir(parents=True, exist_ok=True)
    packages = {name: fetch(spec, work / name) for name, spec in PACKAGES.items()}
    icons = {style: read_icons(packages[style]) for style in ("flat", "line", "noto")}
    renders = {without_variation_selector(p.stem): p for p in (packages["render3d"] / "assets").glob("*.webp")}
    entries = {
        without_variation_selector(entry["hexcode"]): entry
        for entry in read_json(packages["emojibase"] / "en/data.json")
        if entry.get("group") not in (None, COMPONENTS)
    }
    complete = (code for code in entries if all(code in source for source in (renders, *icons.values())))
    emoji = {code: entries[code] for code in sorted(complete, key=lambda code: entries[code]["order"])}
    print(f"{len(emoji)} emoji have every style", flush=True)

    font = ImageFont.truetype(packages["font"] / FONT, CELL * 3 // 2, layout_engine=ImageFont.Layout.RAQM)
    lanczos = Image.Resampling.LANCZOS
    draw = {
        "render3d": lambda code: Image.open(renders[code]).convert("RGBA").resize((CELL, CELL), lanczos),
        **{style: lambda code, svgs=icons[style]: draw_svg(svgs[code]) for style in icons},
        "mono": lambda code: draw_glyph(emoji[code]["emoji"], font),
    }
    for style, draw_cell in draw.items():
        print(f"drawing {style}", flush=True)
        rgba = np.stack([np.asarray(draw_cell(code)) for code in emoji])
        empty = [code for code, image in zip(emoji, rgba, strict=True) if not image[..., 3].any()]
        if empty:
            raise SystemExit(f"{style}: {empty} came out empty; the versions in PACKAGES draw all of them.")
        save_atlases(style, rgba, out)

    rows = metadata(emoji, packages)
    lines = "".join(json.dumps(row, ensure_ascii=False, separators=(",", ":")) + "\n" for row in rows)
    with gzip.GzipFile(out / "meta.jsonl.gz", "wb", 9, mtime=0) as file:  # no time stamp: same bytes every time
        file.write(lines.encode())
    (out / "NOTICE.txt").write_text(NOTICE, encoding="utf8")
    print(dict(collections.Counter(row["split"] for row in rows)), len({row["family"] for row in rows}), "families")


def checksums(folder, names: list[str]) -> dict[str, str]:
    """{name: SHA-256 in hex} of files in a folder, a `Path` or a package resource."""
    return {name: hashlib.sha256((folder / name).read_bytes()).hexdigest() for name in names}


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, required=True, help="folder that keeps the npm packages")
    parser.add_argument("--out", type=Path, required=True, help="folder for the corpus")
    parser.add_argument("--check", action="store_true", help="compare with the packaged corpus")
    args = parser.parse_args(argv)
    check_requirements()
    build(args.work, args.out)

    packaged = importlib.resources.files("data_pipeline") / "emoji_corpus"
    names = [line.split()[1] for line in (packaged / "SHA256SUMS").read_text().splitlines()]
    built = checksums(args.out, names)
    (args.out / "SHA256SUMS").write_text("".join(f"{digest}  {name}\n" for name, digest in built.items()))
    if not args.check:
        return 0
    expected = checksums(packaged, names)
    for name in names:
        print(f"{'same     ' if built[name] == expected[name] else 'DIFFERENT'} {name}")
    return int(built != expected)


if __name__ == "__main__":
    sys.exit(main())
