"""Exact and near duplicates of pictures and texts: what is compared, and the keys under which like ones meet.

Of a picture a signature is pHash (C. Zauner, Implementation and Benchmarking of Perceptual Image Hash Functions, 2010,
section 3.2.1) with a thumbnail beside it, since the hash sees no colour and nothing in an even area; of a text MinHash
(A. Broder, On the resemblance and containment of documents, 1997). Two that are near have a key in common: always if
they are pictures, with the probability that `text_keys` states if they are texts.
"""

import hashlib
import itertools
import re

import numpy as np
import scipy.fft
from PIL import Image

from data_pipeline.image import as_channels

HASH_BYTES = 8
THUMBNAIL = 4  # a side, in pixels of three colours
ROWS, BANDS = 5, 25  # of the permutations of MinHash
SHINGLE = 3  # words

_SEED = np.random.default_rng(1997)  # PCG64: the same numbers everywhere
_FACTORS, _OFFSETS = _SEED.integers(2**64, size=(2, ROWS * BANDS), dtype=np.uint64)


def exact_key(value) -> bytes:
    """16 bytes of the SHA-256 of a picture's pixels and shape, or of a text."""
    if isinstance(value, str):
        return hashlib.sha256(b"text" + value.encode()).digest()[:16]
    return hashlib.sha256(f"pixels{value.shape}".encode() + np.ascontiguousarray(value).tobytes()).digest()[:16]


def image_signature(image: np.ndarray) -> np.ndarray:
    """uint8[H, W, C] → uint8[8 + 48]: the 64 bits of pHash, then a thumbnail of 4 × 4 colours.

    pHash: the luminance at 32 × 32, its orthonormal DCT-II D, and of the 64 coefficients D[1…8, 1…8], which leave out
    the mean, a bit each: 1 where it is above their median.
    """
    picture = Image.fromarray(np.ascontiguousarray(as_channels(image, 3)))
    grey = np.asarray(picture.convert("L").resize((32, 32), Image.Resampling.BOX), np.float64)
    low = scipy.fft.dctn(grey, norm="ortho")[1:9, 1:9].ravel()
    low[np.abs(low) < 1e-6] = 0  # an even picture: zero, not its rounding
    thumbnail = np.asarray(picture.resize((THUMBNAIL, THUMBNAIL), Image.Resampling.BOX))
    return np.concatenate([np.packbits(low > np.median(low)), thumbnail.ravel()])


def image_keys(signature: np.ndarray, bits: int) -> list[bytes]:
    """Keys of which two pictures, whose hashes differ in at most `bits` bits, have at least one in common.

    The hash is cut into bits + 2 blocks, of which then two agree: a key is a pair of blocks (G. Manku et al., Detecting
    near-duplicates for web crawling, 2007, section 3.1).
    """
    blocks = np.array_split(np.unpackbits(signature[:HASH_BYTES]), bits + 2)
    return [
        bytes([i, j]) + np.packbits(np.concatenate([blocks[i], blocks[j]])).tobytes()
        for i, j in itertools.combinations(range(bits + 2), 2)
    ]


def images_near(a: np.ndarray, b: np.ndarray, bits: int, levels: float) -> np.ndarray:
    """Signatures uint8[n, 56] and uint8[m, 56] → bool[n, m]: the hashes differ in at most `bits` of 64 bits, and the
    thumbnails on average by at most `levels` of 255."""
    distance = np.bitwise_count(a[:, None, :HASH_BYTES] ^ b[None, :, :HASH_BYTES]).sum(-1)
    thumbnails = np.abs(a[:, None, HASH_BYTES:].astype(np.int16) - b[None, :, HASH_BYTES:]).mean(-1)
    return (distance <= bits) & (thumbnails <= levels)


def shingles(text: str) -> set[str]:
    """Every three words in a row, in lower case and without punctuation; of a shorter text all its words."""
    words = re.findall(r"\w+", text.casefold())
    width = min(SHINGLE, max(1, len(words)))
    return {" ".join(words[i : i + width]) for i in range(len(words) - width + 1)}


def text_signature(text: str) -> np.ndarray:
    """MinHash: uint32[125], the least hash of the text's shingles under each of 125 random functions, of which two
    texts share a fraction that is the Jaccard similarity of their shingles on average.

    h(x) = (a x + b mod 2^64) >> 32 of 32-bit x (M. Dietzfelbinger, Universal hashing and k-wise independent random
    variables via integer arithmetic without primes, 1996). A text without a word has the hash of itself.
    """
    found = sorted(shingles(text)) or [text]
    digests = b"".join(hashlib.blake2b(s.encode(), digest_size=4).digest() for s in found)
    x = np.frombuffer(digests, "<u4").astype(np.uint64)
    return ((x[:, None] * _FACTORS + _OFFSETS) >> np.uint64(32)).min(0).astype(np.uint32)


def text_keys(signature: np.ndarray) -> list[bytes]:
    """The bands of a MinHash signature: texts of similarity s share one with probability 1 - (1 - s^5)^25: 0.99995 at
    0.8, 0.99 at 0.7, 0.008 at 0.2 (J. Leskovec et al., Mining of Massive Datasets, section 3.4)."""
    return [bytes([i]) + band.astype("<u4").tobytes() for i, band in enumerate(signature.reshape(BANDS, ROWS))]


def texts_near(a: np.ndarray, b: np.ndarray, similarity: float) -> np.ndarray:
    """Signatures uint32[n, 125] and uint32[m, 125] → bool[n, m]: at least this part of them agrees."""
    return (a[:, None] == b[None]).mean(-1) >= similarity


def earlier(members: list[tuple[int, int, np.ndarray]], near=None) -> list[tuple]:
    """Which of the examples that met under one key come before another that is like them.

    Args:
      members: (split, row, signature) of each example, splits and rows as numbers.
      near: of signatures [n, D] and [m, D] → bool[n, m]; None: all are like all.

    Returns:
      for every example with such another (split, row, (other split, other row)): the first row of its own split, if
      that is before it, and the first row of the next split after its own that has one.
    """
    splits, rows, signatures = (np.array(column) for column in zip(*members))
    if near is None:
        signatures = np.zeros((len(rows), 1))
    unique, which = np.unique(signatures, axis=0, return_inverse=True)
    none = np.iinfo(np.int64).max
    first = np.full((len(unique), splits.max() + 1), none)
    np.minimum.at(first, (which, splits), rows)
    least = np.empty_like(first)
    block = max(1, 2**18 // len(unique))  # pairs at a time: some ten MB
    for start in range(0, len(unique), block):
        some = unique[start : start + block]
        like = np.ones((len(some), len(unique)), bool) if near is None else near(some, unique)
        for split in range(first.shape[1]):
            least[start : start + block, split] = np.where(like, first[:, split], none).min(1)
    found = []
    for split, row, kind in zip(splits.tolist(), rows.tolist(), which.ravel().tolist()):
        found += [(split, row, (split, int(least[kind, split])))] if least[kind, split] < row else []
        later = [s for s in range(split + 1, first.shape[1]) if least[kind, s] < none]
        found += [(split, row, (later[0], int(least[kind, later[0]])))] if later else []
    return found
