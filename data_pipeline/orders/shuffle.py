"""Every time in another order; the sources of a mixture take turns by their weights."""

import dataclasses

import grain

from data_pipeline import mixture


@dataclasses.dataclass(frozen=True)
class Order:
    """An epoch shows every example once, of a mixture each source by itself."""

    def __call__(self, source, seed: int) -> grain.MapDataset:
        return source.stream(seed) if isinstance(source, mixture.Source) else mixture.shuffled(source, seed)
