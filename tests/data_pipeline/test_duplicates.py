"""Hashes and signatures against their formulas, keys against their promise, what comes earlier by brute force."""

import hashlib
import io

import numpy as np
import pytest
from PIL import Image

from data_pipeline import duplicates
from data_pipeline.duplicates import (
    earlier,
    exact_key,
    image_keys,
    image_signature,
    images_near,
    shingles,
    text_keys,
    text_signature,
    texts_near,
)


def picture(seed, height=96, width=128):
    """A smooth random picture, uint8[height, width, 3]."""
    small = np.random.default_rng(seed).integers(256, size=(6, 8, 3), dtype=np.uint8)
    return np.asarray(Image.fromarray(small).resize((width, height), Image.Resampling.BICUBIC))


def bits(a, b):
    return int(np.unpackbits(a[:8] ^ b[:8]).sum())


def test_exact_keys_tell_pixels_and_shapes_apart():
    image = picture(0)
    assert exact_key(image) == exact_key(image.copy()) and len(exact_key(image)) == 16
    assert exact_key(image) != exact_key(image.reshape(128, 96, 3))
    other = image.copy()
    other[5, 6, 1] ^= 1
    assert exact_key(image) != exact_key(other)
    assert exact_key("a") != exact_key("b") and exact_key("a") == exact_key("a")


def test_phash_is_the_dct_of_the_thumbnail_of_the_luminance():
    for seed in range(5):
        image = picture(seed, 64, 64)
        grey = np.asarray(Image.fromarray(image).convert("L").resize((32, 32), Image.Resampling.BOX), float)
        n = np.arange(32)
        basis = np.cos(np.pi * (2 * n[None] + 1) * n[:, None] / 64)
        low = (basis @ grey @ basis.T)[1:9, 1:9].ravel()
        signature = image_signature(image)
        assert signature.dtype == np.uint8 and signature.shape == (56,)
        margin = np.abs(low - np.median(low)) > 1e-6
        assert (np.unpackbits(signature[:8])[margin] == (low > np.median(low))[margin]).all() and margin.sum() >= 62
        thumbnail = image.reshape(4, 16, 4, 16, 3).mean((1, 3))
        np.testing.assert_allclose(signature[8:].reshape(4, 4, 3), thumbnail, atol=1)


def test_a_picture_is_near_its_copies_and_no_other():
    image = picture(1)
    stream = io.BytesIO()
    Image.fromarray(image).save(stream, "JPEG", quality=60)
    copies = [np.asarray(Image.open(stream)), np.asarray(Image.fromarray(image).resize((90, 67)))]
    own = image_signature(image)[None]
    assert images_near(own, np.stack([image_signature(c) for c in copies]), 4, 12).all()
    others = np.stack([image_signature(picture(seed)) for seed in range(2, 60)])
    assert not images_near(own, others, 10, 255).any()


def test_colour_is_seen_though_the_hash_sees_none():
    red, blue = (np.full((40, 40, 3), colour, np.uint8) for colour in [(200, 0, 0), (0, 0, 200)])
    a, b, grey = image_signature(red)[None], image_signature(blue)[None], image_signature(red[..., :1])[None]
    assert bits(a[0], b[0]) == 0 and bits(a[0], grey[0]) == 0
    assert images_near(a, a, 0, 0).all() and not images_near(a, b, 4, 12).any()
    assert images_near(a, b, 0, 134).all()  # (200 + 0 + 200) / 3


@pytest.mark.parametrize("count", [0, 1, 4, 14])
def test_near_hashes_always_share_a_key(count):
    rng = np.random.default_rng(count)
    for _ in range(300):
        a = rng.integers(256, size=56, dtype=np.uint8)
        flips = np.zeros(64, np.uint8)
        flips[rng.choice(64, count, replace=False)] = 1
        b = a.copy()
        b[:8] ^= np.packbits(flips)
        assert bits(a, b) == count and set(image_keys(a, count)) & set(image_keys(b, count))
    assert len(set(image_keys(a, count))) == (count + 2) * (count + 1) // 2
    assert not set(image_keys(a, count)) & set(image_keys(~a, count))


def test_minhash_is_the_least_of_every_function():
    text = "The quick, brown fox. Jumps; over THE dog!"
    words = "the quick brown fox jumps over the dog".split()
    assert shingles(text) == {" ".join(words[i : i + 3]) for i in range(6)}
    assert shingles("Two words") == {"two words"} and shingles("one") == {"one"} and shingles("?!") == set()
    xs = [int.from_bytes(hashlib.blake2b(s.encode(), digest_size=4).digest(), "little") for s in shingles(text)]
    factors, offsets = duplicates._FACTORS.tolist(), duplicates._OFFSETS.tolist()
    expected = [min((a * x + b) % 2**64 >> 32 for x in xs) for a, b in zip(factors, offsets)]
    assert text_signature(text).tolist() == expected
    assert factors[0] == 12685338211655954053 and len(factors) == 125  # another seed would forget old signatures
    assert not (text_signature("?!") == text_signature("...")).any()


def test_signatures_estimate_the_similarity_of_texts():
    rng = np.random.default_rng(0)
    errors = []
    for _ in range(40):
        words = [f"w{n}" for n in rng.integers(1000, size=60)]
        cut = rng.integers(5, 55)
        a, b = " ".join(words), " ".join(words[:cut] + [f"v{n}" for n in rng.integers(1000, size=60 - cut)])
        true = len(shingles(a) & shingles(b)) / len(shingles(a) | shingles(b))
        seen = (text_signature(a) == text_signature(b)).mean()
        errors.append(seen - true)
        if true > 0.8:
            assert set(text_keys(text_signature(a))) & set(text_keys(text_signature(b)))
        near = texts_near(text_signature(a)[None], text_signature(b)[None], 0.5)
        assert near.shape == (1, 1) and near[0, 0] == (seen >= 0.5)
    # The deviation of a mean of 125 yes and no is at most sqrt(0.25 / 125) = 0.045.
    assert np.std(errors) < 0.06 and abs(np.mean(errors)) < 0.03


def brute(members, near):
    found = []
    for split, row, a in members:
        like = [(s, r) for s, r, b in members if near is None or near(a[None], b[None])[0, 0]]
        own = [r for s, r in like if s == split and r < row]
        later = [o for o in like if o[0] > split]
        found += [(split, row, (split, min(own)))] if own else []
        found += [(split, row, min(later))] if later else []
    return found


@pytest.mark.parametrize("near", [None, lambda a, b: np.abs(a[:, None] - b[None]).sum(-1) <= 1])
def test_what_comes_earlier(near):
    rng = np.random.default_rng(0)
    for _ in range(30):
        places = rng.permutation(60)[: rng.integers(1, 20)]
        members = [(int(p) // 20, int(p) % 20, rng.integers(3, size=2)) for p in places]
        assert sorted(earlier(members, near)) == sorted(brute(members, near))


def test_many_are_compared_block_by_block(monkeypatch):
    rng = np.random.default_rng(1)
    members = [(0, row, rng.integers(256, size=1).astype(np.int64)) for row in range(700)]
    sizes = []

    def near(a, b):
        sizes.append(a.size * b.size)
        return np.abs(a[:, None, 0] - b[None, :, 0]) <= 1

    assert sorted(earlier(members, near)) == sorted(brute(members, near)) and max(sizes) <= 2**18
