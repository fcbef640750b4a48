"""Simulated squares of land that three sensors saw, two of them again and again in the course of a year."""

import zlib

import numpy as np

from data_pipeline.drawn import Drawn

COVERS = ("water", "crops", "forest", "grass", "town")
BANDS = {"optical": 12, "spectral": 6, "radar": 2}  # numbers of a place; of the first those of 2 x 2 coloured points
NOISE = {"optical": 0.6, "spectral": 0.5, "radar": 1.0}
YEAR, APART, SWING = 365, 0.8, 1.0  # days; how much a region differs from others, and a season from another


class Source(Drawn):
    """Random access to squares; what one shows hangs on its number, the split and the settings alone.

    What is seen of a place is a vector of its cover, one of the cover in its region, and, of the spectrum, one that
    rises and falls with the day of the year, whose phase both have; and noise, anew on each date.

    An example is a dict of
      row: np.int64
      optical: float32[1, side², 12]; spectral: float32[dates, side², 6]; radar: float32[dates, side², 2]
      optical_dates, spectral_dates, radar_dates: int64 of as many, days 0 … 364, ascending
      region: 0 … regions − 1
      cover: uint8[side, side, 1], number of what covers each place

    Args:
      split: "train", "val" or "test", or a tuple of them: other squares of the same regions.
      squares: of the training split; the others have a tenth.
      side: of a square, in places. dates: of the spectrum and of radar. regions: how many.

    Raises:
      ValueError: unknown split, or settings out of range.
    """

    fields = frozenset({*BANDS, *(f"{name}_dates" for name in BANDS), "region", "cover"})

    def __init__(self, split="train", squares: int = 2000, side: int = 6, dates: int = 8, regions: int = 8):
        super().__init__(split, squares, 10)
        if squares < 10 or side < 2 or not 1 <= dates <= YEAR or regions < 1:
            raise ValueError(
                f"squares={squares}, side={side}, dates={dates}, regions={regions}: need at least 10 squares of 2 x 2, "
                f"1 to {YEAR} dates, and a region"
            )
        self._squares, self._side, self._dates, self._regions = squares, side, dates, regions

    def __getitem__(self, index: int) -> dict:
        split, at = self._place(index)
        rng, side = np.random.default_rng([zlib.crc32(split.encode()), at]), self._side
        region, rough = int(rng.integers(self._regions)), rng.normal(size=(len(COVERS), side, side))
        near = [np.roll(rough, (i, j), (1, 2)) for i in (-1, 0, 1) for j in (-1, 0, 1)]
        cover = np.sum(near, 0).argmax(0)  # smooth: of places beside each other most have one cover
        example = {"row": np.int64(index), "region": region, "cover": cover[..., None].astype(np.uint8)}
        for name in BANDS:
            days = np.sort(rng.choice(YEAR, 1 if name == "optical" else self._dates, replace=False))
            seen = looks(name, region)[cover.ravel()]  # [side², its look, its swing, 1 its phase]
            own, swing, phase = np.split(seen, [BANDS[name], 2 * BANDS[name]], axis=1)
            season = np.cos(2 * np.pi * days[:, None, None] / YEAR + phase) if name == "spectral" else 0.0
            noise = NOISE[name] * rng.normal(size=(len(days), *own.shape))
            example |= {name: (own + season * swing + noise).astype(np.float32), f"{name}_dates": days}
        return example

    def __repr__(self) -> str:
        return (
            f"revisited.Source(split={self._splits!r}, squares={self._squares}, side={self._side}, "
            f"dates={self._dates}, regions={self._regions})"
        )


def looks(sensor: str, region: int) -> np.ndarray:
    """How each cover looks in a region, `[covers, 2 bands + 1]`: on average, its swing, and the phase of that."""
    draw = lambda *seed: np.random.default_rng([zlib.crc32(sensor.encode()), *seed])
    size, scales = (len(COVERS), 2 * BANDS[sensor] + 1), [1.0] * BANDS[sensor] + [SWING] * BANDS[sensor] + [2.0]
    return (draw().normal(size=size) + APART * draw(region).normal(size=size)) * scales
