"""Some of the dates on which sensors saw a place: a sequence of frames, and beside it another one (SkySense, arXiv
2312.10115, of one place at several times)."""

import dataclasses

import numpy as np

from data_pipeline.transforms import base


@dataclasses.dataclass(frozen=True)
class Transform(base.Transform):
    """Of each of `sensors`, a field `[dates, places, numbers]` beside FIELD_dates, it draws as many dates as `frames`
    says, in their order, and leaves rows, frame behind frame; into `dates` go the days of all sensors, in their order.

    view: a name; then FIELD/VIEW and `dates`/VIEW are of another draw. In evaluation dates are evenly spread, and the
    view shows the same.
    """

    sensors: tuple[str, ...]
    frames: tuple[int, ...]
    dates: str = "dates"
    view: str = ""

    def __post_init__(self):
        if not self.sensors or len(self.frames) != len(self.sensors) or min(self.frames) < 1:
            raise ValueError(
                f"acquisitions.sensors={self.sensors}, frames={self.frames}: name fields, and of each how many frames"
            )
        if self.dates in self.sensors or "/" in self.dates + self.view:
            raise ValueError(f"acquisitions.dates={self.dates!r}, view={self.view!r}: give names that nothing else has")

    @property
    def reads(self):
        return tuple(field for name in self.sensors for field in (name, f"{name}_dates"))

    @property
    def writes(self):
        own = (*self.sensors, self.dates)
        return own + (tuple(f"{field}/{self.view}" for field in own) if self.view else ())

    def __call__(self, example, rng):
        out = dict(example)
        for end in ("", f"/{self.view}") if self.view else ("",):
            days = []
            for name, count in zip(self.sensors, self.frames):
                seen, dates = self._given(example, name, count)
                at = np.linspace(0, len(dates) - 1, count).round().astype(int)
                at = at if rng is None else np.sort(rng.choice(len(dates), count, replace=False))
                out[name + end] = None if seen is None else seen[at].reshape(-1, seen.shape[2])
                days.append(dates[at])
            out[self.dates + end] = np.concatenate(days)
        return out

    def _given(self, example, name: str, count: int):
        """(what a sensor saw, None if it saw nothing, its dates)."""
        seen, dates = example.get(name), example.get(f"{name}_dates")
        if seen is None or dates is None:
            return None, np.zeros(count, np.int64)
        if np.ndim(seen) != 3 or np.shape(dates) != np.shape(seen)[:1] or len(dates) < count:
            raise ValueError(
                f"acquisitions: row {example['row']} has {name} {np.shape(seen)} and {name}_dates {np.shape(dates)}: "
                f"needs [dates, places, numbers] and as many days, at least frames={count}"
            )
        return np.asarray(seen), np.asarray(dates)
