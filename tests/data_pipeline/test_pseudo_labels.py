"""Metadata against loops over pixels, palettes, and small ONNX networks against NumPy."""

import colorsys
import math
import pickle

import numpy as np
import pytest

from data_pipeline import image as transforms
from data_pipeline.pseudo_labels import metadata, open_label, palettes, parse
from data_pipeline.structured import METADATA, encode_metadata

RNG = np.random.default_rng(0)
PICTURE = RNG.integers(256, size=(6, 9, 3), dtype=np.uint8)


def by_loops(image):
    pixels = [tuple(map(int, p)) for row in image for p in row]
    n = len(pixels)

    def mean(xs):
        return math.fsum(xs) / n

    def deviation(xs):
        return math.sqrt(mean([(x - mean(xs)) ** 2 for x in xs]))

    rg, yb = [r - g for r, g, b in pixels], [0.5 * (r + g) - b for r, g, b in pixels]
    luma = [0.299 * r + 0.587 * g + 0.114 * b for r, g, b in pixels]
    shades = [sum(round(y) == s for y in luma) / n for s in range(256)]
    return {
        "colorfulness": math.hypot(deviation(rg), deviation(yb)) + 0.3 * math.hypot(mean(rg), mean(yb)),
        "brightness": mean(luma),
        "contrast": deviation(luma),
        "saturation": mean([255 * colorsys.rgb_to_hsv(*(c / 255 for c in p))[1] for p in pixels]),
        "entropy": -sum(p * math.log2(p) for p in shades if p),
        "original_width": image.shape[1],
        "original_height": image.shape[0],
    }  # fmt: skip


def test_metadata_is_as_its_formulas():
    for picture in (PICTURE, np.zeros((2, 3, 3), np.uint8), np.full((1, 1, 3), (255, 0, 0), np.uint8)):
        found = metadata(picture)
        assert found == pytest.approx(by_loops(picture), abs=1e-4)
    assert encode_metadata(found) and all(type(v) in (int, float) for v in found.values())
    assert found["saturation"] == 255 and found["entropy"] == 0
    # Pure red: rg = 255, yb = 127.5.
    assert found["colorfulness"] == pytest.approx(0.3 * math.hypot(255, 127.5), abs=1e-4)


def test_metadata_of_a_caption():
    def counts(caption):
        found = metadata(PICTURE, caption)
        assert set(found) <= {name for name, _ in METADATA}
        return tuple(found[f"caption_n_{what}"] for what in ("chars", "words", "sentences"))

    assert counts("A cat. A dog!") == (13, 4, 2) and counts("no end") == (6, 2, 1)
    assert (
        counts("Version 2.5 of it... really?!") == (29, 5, 2) and counts("") == (0, 0, 0) and counts("...") == (3, 1, 0)
    )
    assert counts("一只猫。一只狗。") == (8, 1, 2)
    assert "caption_n_chars" not in metadata(PICTURE)


def test_palettes_and_edges():
    image = np.zeros((40, 40, 3), np.uint8)
    image[:30] = 255, 0, 0
    image[30:, :10] = 0, 0, 255
    found = palettes(image)
    assert len(found) == 7 and all(1 <= len(colours) <= n for n, colours in enumerate(found, 1))
    assert found[2] == [[255, 0, 0], [0, 0, 0], [0, 0, 255]] == found[6]
    np.testing.assert_array_equal(open_label(parse("edges"))(image), transforms.edges(image))
    assert len(palettes(RNG.integers(256, size=(300, 200, 3), dtype=np.uint8))[6]) == 7


def save(path, nodes, tensors, shape, out_shape, metadata=(), opset=17):
    """Writes an ONNX network x → y."""
    onnx = pytest.importorskip("onnx")
    helper = onnx.helper
    graph = helper.make_graph(
        [helper.make_node(*args, **options) for *args, options in nodes], "g",
        [helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, out_shape)],
        [onnx.numpy_helper.from_array(value, name) for name, value in tensors.items()],
    )  # fmt: skip
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)
    helper.set_model_props(model, dict(metadata))
    onnx.save(model, path)
    return f"onnx:{path}"


MEAN, STD = (0.4, 0.5, 0.6), (0.2, 0.25, 0.5)
NORM = "mean=0.4,0.5,0.6&std=0.2,0.25,0.5"


def convolved(image, kernel):
    """Correlation [O, 3, 3, 3] of the normalised picture with a border of zeros → [O, H, W], in plain NumPy."""
    x = ((image / 255 - MEAN) / STD).transpose(2, 0, 1)
    x = np.pad(x, ((0, 0), (1, 1), (1, 1)))
    height, width = image.shape[:2]
    windows = np.stack([x[:, i : i + height, j : j + width] for i in range(3) for j in range(3)], axis=1)
    return np.einsum("ocn,cnhw->ohw", kernel.reshape(len(kernel), 3, 9), windows)


@pytest.fixture(scope="module")
def networks(tmp_path_factory):
    pytest.importorskip("onnxruntime")
    folder = tmp_path_factory.mktemp("onnx")
    kernel = np.random.default_rng(1).normal(size=(3, 3, 3, 3)).astype(np.float32)
    conv = ("Conv", ["x", "w"], ["y"], {"pads": [1, 1, 1, 1]})
    image = (1, 3, 6, 9)
    return kernel, {
        "depth": save(folder / "depth.onnx", [conv], {"w": kernel[:1]}, image, (1, 1, 6, 9)),
        "classes": save(folder / "classes.onnx", [conv], {"w": kernel}, image, (1, 3, 6, 9),
                        {"kind": "classes", "mean": "0.4,0.5,0.6", "std": "0.2,0.25,0.5"}),
        "any": save(folder / "any.onnx", [conv], {"w": kernel}, (1, 3, "h", "w"), (1, 3, "h", "w")),
        "last": save(folder / "last.onnx", [("ReduceMean", ["x"], ["y"], {"axes": [1, 2], "keepdims": 0})], {},
                     (1, 6, 9, 3), (1, 3)),
    }  # fmt: skip


def run(how, image=PICTURE):
    return open_label(pickle.loads(pickle.dumps(parse(how))))(image)


def test_a_map_is_scaled_to_its_range(networks):
    kernel, path = networks
    values = convolved(PICTURE, kernel[:1])[0]
    scaled = (values - values.min()) / (values.max() - values.min())
    for kind, top, dtype in (("map8", 255, np.uint8), ("map16", 65535, np.uint16)):
        found = run(f"{path['depth']}?{NORM}&kind={kind}")
        assert found.dtype == dtype and found.shape == (6, 9, 1) and (found.min(), found.max()) == (0, top)
        np.testing.assert_allclose(found[..., 0], scaled * top, atol=0.51 if top == 255 else 0.6)
    found = run(f"{path['depth']}?{NORM}&kind=map16&low=-2&high=6")[..., 0]
    np.testing.assert_allclose(found, ((values + 2) / 8).clip(0, 1) * 65535, atol=0.6)


def test_classes_by_the_metadata_of_the_model(networks):
    kernel, path = networks
    found = run(path["classes"])
    np.testing.assert_array_equal(found[..., 0], convolved(PICTURE, kernel).argmax(0))
    assert run(path["classes"], np.repeat(np.repeat(PICTURE, 2, 0), 2, 1)).shape == (12, 18, 1)
    with pytest.raises(ValueError, match="is no map"):
        run(f"{path['classes']}?kind=map8")


def test_features_of_either_layout(networks):
    kernel, path = networks
    found = run(f"{path['any']}?{NORM}&kind=features&size=6,9")
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, convolved(PICTURE, kernel), atol=1e-5)
    expected = ((PICTURE / 255 - MEAN) / STD).mean((0, 1))
    np.testing.assert_allclose(run(f"{path['last']}?{NORM}&kind=features"), expected, atol=1e-5)
    grey = run(f"{path['last']}?mean=0&std=1&kind=features", PICTURE[..., :1])
    np.testing.assert_allclose(grey, [PICTURE[..., 0].mean() / 255] * 3, atol=1e-5)


@pytest.mark.parametrize(
    "name, query, message",
    [
        ("depth", NORM, "kind=None: say .kind= one of map8, map16, classes, features"),
        ("depth", "kind=map8&mean=0", "std=None: say .std= 1 or 3 numbers"),
        ("depth", "kind=map8&std=1&mean=0,0", "mean='0,0': say .mean= 1 or 3 numbers"),
        ("depth", f"kind=map8&{NORM}&low=0", "low and high belong together"),
        ("depth", f"kind=map8&{NORM}&output=z", "output='z': say .output= one of y"),
        ("any", f"kind=map8&{NORM}", "size=None"),
    ],
)
def test_what_is_not_said_is_asked_for(networks, name, query, message):
    with pytest.raises(ValueError, match=message):
        run(f"{networks[1][name]}?{query}")


def test_what_is_no_pseudo_label(tmp_path):
    with pytest.raises(ValueError, match="'edge' makes no pseudo-label: use palettes, edges, metadata, or onnx:PATH"):
        parse("edge")
    with pytest.raises(FileNotFoundError, match="no such model"):
        parse(f"onnx:{tmp_path}/none.onnx?kind=map8")
    with pytest.raises(ValueError, match="'sise' is no option"):
        parse(f"onnx:{tmp_path}/none.onnx?sise=3")
