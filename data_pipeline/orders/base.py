"""What an order is. An order is a file of this folder with a class `Order`."""

from typing import Protocol

import grain

from data_pipeline.discover import Files

ORDER = Files("data_pipeline.orders", "Order", "order")


class Order(Protocol):
    """A frozen dataclass of settings, and (source, seed) → the numbers of the source's examples, endlessly.

    Any place of the result can be asked for, and is the same whenever it is: so a run may stop and go on anywhere, and
    be loaded by any number of workers and hosts. A batch is as many of them in a row as it has examples. The result
    carries the seed of all draws that follow: end with `.seed(seed)` where nothing before it did.
    """

    def __call__(self, source, seed: int) -> grain.MapDataset: ...
