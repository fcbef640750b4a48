"""Annotations as text of 4M-21's special tokens `vj=n`, and back (arXiv 2406.09406, section 3.1; sizes of apple/ml-4m).

Boxes are (xmin, ymin, xmax, ymax) as fractions of the image; a code below 1024 is `v0=code`, from 512 on `v1=code-512`.
Every `encode_*` has a `decode_*` with encode(decode(text)) == text, and decode(encode(x)) is x to half a bin.
Encoders raise ValueError for what cannot be, such as a box that ends before it begins or a negative count, and decoders
on text of another form. What can be but lies beyond a scale of 4M gets its last bin. Palettes: `data_pipeline.image`.
"""

import dataclasses
import re

import numpy as np

BINS = 1000  # numbers n of vj=n

# Metadata: type number → (name, how it is binned). `size`: 32 pixels a bin; `count`: itself, at most 999; (low, high):
# 50 bins, the last for `high` alone; a list: the edges of its bins.
METADATA = (
    ("original_width", "size"), ("original_height", "size"), ("caption_n_chars", "count"), ("caption_n_words", "count"),
    ("caption_n_sentences", "count"), ("n_humans", "count"), ("n_sam_instances", "count"),
    ("n_coco_instances", "count"), ("coco_instance_diversity", "count"),
    ("colorfulness", (0.0, 150.0)), ("brightness", (0.0, 255.0)),
    ("contrast", (0.0, 127.0)), ("saturation", (0.0, 255.0)), ("entropy", (0.0, 10.0)), ("walkability", (0.0, 1.0)),
    ("objectness", (0.0, 1.0)), ("semantic_diversity", "count"), ("geometric_complexity", (0.0, 0.75)),
    ("occlusion_score", (0.0, 0.25)), ("watermark_score", [0.5]), ("aesthetic_score", [4.5, 5.5]),
)  # fmt: skip
SIZE_BIN, FLOAT_BINS = 32, 50
# The greatest that can be, where there is one; a size is at least 1 and all else but the aesthetic score at least 0.
GREATEST = {
    "original_width": SIZE_BIN * BINS - 1, "original_height": SIZE_BIN * BINS - 1, "brightness": 255, "contrast": 127.5,
    "saturation": 255, "walkability": 1, "objectness": 1, "watermark_score": 1,
}  # fmt: skip
# Parts of a human: name → (how many numbers, scale, offset, least, most) of n = round(scale · x + offset). What camera
# and shape have beyond these becomes the nearer of both; a rotation has nothing there.
HUMAN = {
    "global": (9, 499.5, 499.5, -1.0, 1.0),
    "camera": (3, 49.95, 49.95, -1.0, 19.0),
    "shape": (10, 166.5, 499.5, -3.0, 3.0),
}
POSE_CODES, MASK_CODES = 8, 16


def crop_boxes(boxes, crop, size, *, flip=False, min_visible=0.0):
    """Boxes `[n, 4]` after a crop (top, left, height, width, in pixels) of an image of `size` (height, width).

    Returns (boxes clipped to the crop and mirrored if `flip`, which of them remain `[n]` bool): those of which more
    than `min_visible` of the area is inside.
    """
    boxes, (top, left, height, width), (rows, columns) = _check_boxes(boxes), crop, size
    if min(height, width, rows, columns) <= 0:
        raise ValueError(f"crop={tuple(crop)} of an image of size={tuple(size)}: heights and widths are above 0")
    moved = (boxes * [columns, rows, columns, rows] - [left, top, left, top]) / [width, height, width, height]
    inside = moved.clip(0, 1)
    part = _area(inside) / np.maximum(_area(moved), 1e-12)
    if flip:
        inside = np.stack([1 - inside[:, 2], inside[:, 1], 1 - inside[:, 0], inside[:, 3]], axis=1)
    return inside, part > min_visible


def encode_detections(boxes, classes) -> str:
    """Boxes `[n, 4]` and their class names, nearest to the upper left corner first; `` if there is none."""
    boxes = _check_boxes(boxes)
    if len(boxes) != len(classes):
        raise ValueError(f"{len(boxes)} boxes, but {len(classes)} classes")
    order = np.argsort(np.square(boxes[:, :2]).sum(1), kind="stable")
    return " ".join(f"{_box(boxes[i])} {classes[i]}" for i in order)


def decode_detections(text: str, *, whole: bool = True):
    """(boxes `[n, 4]`, class names), in the order of the text. whole=False: of a text that a model wrote, those before
    the first that does not fit."""
    found, rest = _split(text, rf"{_BOX} (?P<name>(?!v\d=)\S+(?: (?!v\d=)\S+)*)")
    if rest and whole:
        raise ValueError(f"{text!r} is no list of `v0= v1= v2= v3= class`: {rest!r} does not fit")
    boxes = np.array([_unbox(m) for m in found]).reshape(-1, 4)
    return boxes, [m["name"] for m in found]


def encode_metadata(values: dict, rng: np.random.Generator | None = None) -> str:
    """{name: number} as `v1=TYPE v0=BIN …`, in random order with an rng, else by type."""
    names = [n for n, _ in METADATA]
    unknown = [n for n in values if n not in names]
    if unknown:
        raise ValueError(f"{unknown[0]!r} is no metadata type; there are {', '.join(names)}")
    types = [t for t, n in enumerate(names) if n in values]
    types = types if rng is None else rng.permutation(types)
    return " ".join(f"v1={t} v0={_metadata_bin(names[t], values[names[t]], METADATA[t][1])}" for t in types)


def decode_metadata(text: str) -> dict:
    """{name: number}: the middle of its bin."""
    found, rest = _split(text, rf"v1=(?P<type>{_N}) v0=(?P<bin>{_N})")
    if rest or any(int(m["type"]) >= len(METADATA) for m in found):
        raise ValueError(f"{text!r} is no list of `v1=TYPE v0=BIN` with TYPE below {len(METADATA)}")
    for m in found:
        name, how = METADATA[int(m["type"])]
        bins = BINS if isinstance(how, str) else len(how) + 1 if isinstance(how, list) else FLOAT_BINS
        if int(m["bin"]) >= bins:
            raise ValueError(f"{text!r}: {name} has the bins 0…{bins - 1}, not {m['bin']}")
    return {METADATA[int(m["type"])][0]: _metadata_value(int(m["bin"]), METADATA[int(m["type"])][1]) for m in found}


def _metadata_bin(name: str, value, how) -> int:
    least = 1 if how == "size" else -np.inf if name == "aesthetic_score" else how[0] if isinstance(how, tuple) else 0
    most = GREATEST.get(name, np.inf)
    number = isinstance(value, int | float | np.number) and not isinstance(value, bool)
    if not number or not np.isfinite(value) or not least <= value <= most:
        raise ValueError(f"metadata {name}={value!r}: must be a number of {least:g}…{most:g}; mend it or leave it out")
    if how == "size":
        return int(value // SIZE_BIN)
    if how == "count":
        return int(min(value, BINS - 1))
    if isinstance(how, list):
        return int(np.searchsorted(how, value, side="right"))
    low, high = how
    return int((min(value, high) - low) / (high - low) * (FLOAT_BINS - 1))


def _metadata_value(number: int, how):
    if how == "size":
        return number * SIZE_BIN + SIZE_BIN // 2
    if how == "count":
        return number
    if isinstance(how, list):  # the outer bins have no other end: half a unit beyond
        edges = [how[0] - 0.5, *how, how[-1] + 0.5]
        return (edges[number] + edges[number + 1]) / 2
    low, high = how
    return min(low + (number + 0.5) / (FLOAT_BINS - 1) * (high - low), high)


@dataclasses.dataclass(frozen=True)
class Human:
    """One person: box, 8 codes of the body pose, 9 numbers of the global orientation, 3 camera, 10 shape numbers.

    mirrored: codes of the pose mirrored left to right, from the same tokenizer; needed to flip.
    """

    box: tuple
    pose: tuple
    orientation: tuple
    camera: tuple
    shape: tuple
    mirrored: tuple = ()

    def flip(self) -> "Human":
        """The person in the mirrored image. (apple/ml-4m leaves people as they are when it flips the image.)"""
        if len(self.mirrored) != len(self.pose):
            raise ValueError("a pose is mirrored by its tokenizer: give the codes of the mirrored pose, or do not flip")
        xmin, ymin, xmax, ymax = self.box
        mirror = np.diag([-1.0, 1.0, 1.0])  # a rotation seen in a mirror across x = 0 is M R M
        turned = mirror @ np.reshape(self.orientation, (3, 3)) @ mirror
        scale, x, y = self.camera
        return dataclasses.replace(
            self, box=(1 - xmax, ymin, 1 - xmin, ymax), pose=self.mirrored, mirrored=self.pose,
            orientation=tuple(turned.ravel()), camera=(scale, -x, y),
        )  # fmt: skip


def encode_humans(people, rng: np.random.Generator | None = None) -> str:
    """`none`, or for each person its box and its parts, in random order with an rng."""
    texts = []
    for p in people:
        numbers = {"global": p.orientation, "camera": p.camera, "shape": p.shape}
        parts = [f"pose {_codes(p.pose, POSE_CODES)}"]
        for name, (count, scale, offset, least, most) in HUMAN.items():
            if len(numbers[name]) != count:
                raise ValueError(f"{name} of a human has {count} numbers, not {len(numbers[name])}")
            x = np.asarray(numbers[name], float)
            if not np.isfinite(x).all() or (name == "global" and np.abs(x).max() > 1.001):
                raise ValueError(f"{name} of a human is {x.tolist()}: must be finite, of a rotation {least:g}…{most:g}")
            bins = np.clip(np.round(scale * np.clip(x, least, most) + offset), 0, BINS - 1).astype(int)
            parts.append(" ".join([name, *(f"v0={n}" for n in bins)]))
        if rng is not None:
            parts = [parts[i] for i in rng.permutation(len(parts))]
        texts.append(" ".join([f"human {_box(p.box)}", *parts]))
    return " ".join(texts) or "none"


def decode_humans(text: str) -> list[Human]:
    """The people of a text, in its order; parts may come in any order."""
    if text == "none":
        return []
    part = "|".join([rf"pose{_CODE * POSE_CODES}", *(rf"{n}(?: v0={_N}){{{c}}}" for n, (c, *_) in HUMAN.items())])
    found, rest = _split(text, rf"human {_BOX}(?P<parts>(?: (?:{part})){{4}})")
    people = []
    for m in found:
        parts = dict(p.split(" ", 1) for p in re.findall(rf"(?:{part})", m["parts"]))
        if len(parts) != 1 + len(HUMAN):
            rest = m[0]
            break
        numbers = {n: tuple((_ns(parts[n]) - offset) / scale) for n, (_, scale, offset, _, _) in HUMAN.items()}
        people.append(Human(_unbox(m), _uncodes(parts["pose"]), numbers["global"], numbers["camera"], numbers["shape"]))
    if rest:
        raise ValueError(f"{text!r} is neither `none` nor a list of humans: {rest!r} does not fit")
    return people


@dataclasses.dataclass(frozen=True)
class Point:
    """A query point (y, x) and the instances that cover it: (box, 16 mask codes) each."""

    at: tuple
    instances: tuple = ()


def encode_instances(points) -> str:
    """`point v0=y v1=x`, then `none` or `polygon` with box and codes for every instance that covers the point."""
    texts = []
    for p in points:
        y, x = (_bin(c) for c in p.at)
        polygons = [f"polygon {_box(box)} {_codes(codes, MASK_CODES)}" for box, codes in p.instances]
        texts.append(" ".join([f"point v0={y} v1={x}", *(polygons or ["none"])]))
    return " ".join(texts)


def decode_instances(text: str) -> list[Point]:
    polygon = rf"polygon {_BOX}(?P<codes>{_CODE * MASK_CODES})"
    found, rest = _split(text, rf"point v0=(?P<y>{_N}) v1=(?P<x>{_N})(?P<all> none|(?: {_unnamed(polygon)})+)")
    if rest:
        raise ValueError(f"{text!r} is no list of points with their instances: {rest!r} does not fit")
    points = []
    for m in found:
        instances = tuple((_unbox(i), _uncodes(i["codes"])) for i in re.finditer(polygon, m["all"]))
        points.append(Point((int(m["y"]) / (BINS - 1), int(m["x"]) / (BINS - 1)), instances))
    return points


_N = r"\d{1,3}"
_BOX = " ".join(rf"v{j}=(?P<b{j}>{_N})" for j in range(4))
_CODE = rf" v[01]={_N}"


def _unnamed(pattern):
    return re.sub(r"\?P<\w+>", "?:", pattern)


def _split(text, pattern):
    """(matches of the pattern one after another, parted by one space; what is left from where none fits)."""
    found, at = [], 0
    while at < len(text):
        m = re.compile(rf"{pattern}(?= |$)").match(text, at)
        if m is None:
            return found, text[at:]
        found.append(m)
        at = m.end() + 1
    return found, ""


def _check_boxes(boxes) -> np.ndarray:
    """Boxes `[n, 4]` of finite numbers that end where they begin or behind it."""
    boxes = np.asarray(boxes, float).reshape(-1, 4)
    bad = ~np.isfinite(boxes).all(1) | (boxes[:, :2] > boxes[:, 2:]).any(1)
    if bad.any():
        raise ValueError(f"box {boxes[bad][0].tolist()}: must be (xmin, ymin, xmax, ymax), ascending; mend or drop it")
    return boxes


def _area(boxes):
    return np.prod(np.maximum(boxes[:, 2:] - boxes[:, :2], 0), axis=1)


def _bin(fraction) -> int:
    if not 0 <= fraction <= 1:
        raise ValueError(f"{fraction}: coordinates are fractions of the image, 0…1; crop first")
    return round(float(fraction) * (BINS - 1))


def _box(box) -> str:
    (box,) = _check_boxes([box])
    return " ".join(f"v{j}={_bin(c)}" for j, c in enumerate(box))


def _unbox(match) -> tuple:
    return tuple(int(match[f"b{j}"]) / (BINS - 1) for j in range(4))


def _codes(codes, count) -> str:
    if len(codes) != count or not all(0 <= c < 1024 for c in codes):
        raise ValueError(f"{list(codes)}: needs {count} codes of 0…1023")
    return " ".join(f"v0={c}" if c < 512 else f"v1={c - 512}" for c in codes)


def _uncodes(text) -> tuple:
    if max(_ns(text)) > 511:
        raise ValueError(f"{text!r}: a code is v0=n or v1=n with n of 0…511; it does not fit")
    return tuple(int(n) + 512 * int(j) for j, n in re.findall(r"v([01])=(\d+)", text))


def _ns(text):
    return np.array([int(n) for n in re.findall(r"=(\d+)", text)])
