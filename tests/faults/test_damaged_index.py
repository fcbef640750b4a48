"""The index that is kept beside tars is made again if it is damaged."""

import numpy as np
from tars import picture, write_tar

from data_pipeline import tar


def test_a_damaged_index_is_made_again(tmp_path):
    shard = write_tar(tmp_path / "train-000000.tar", {f"{i:03d}.png": picture(i) for i in range(3)})
    want = tar.read_index([shard])
    (kept,) = tmp_path.glob(".*.index.npz")
    whole = kept.read_bytes()
    for at in range(0, len(whole), 7):
        for bit in (1, 128):
            data = bytearray(whole)
            data[at] ^= bit
            kept.write_bytes(data)
            np.testing.assert_array_equal(tar.read_index([shard]).place, want.place)
