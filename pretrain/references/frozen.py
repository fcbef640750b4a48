"""The network that another run trained, as it is: a teacher."""

import dataclasses


@dataclasses.dataclass(frozen=True)
class Reference:
    """The newest parameters of a workdir (their moving average, if it has one), which nothing changes.

    It is no part of this run's checkpoints: a resumed run reads it there again, and refuses another.
    reads: {its modality: the run's}, where their names differ. Its specs count: it normalises pixels as it was trained
      to. store: what its parameters are kept as, float32 or bfloat16.
    """

    workdir: str
    reads: dict = dataclasses.field(default_factory=dict)
    store: str = "float32"

    def __post_init__(self):
        if not self.workdir:
            raise ValueError("workdir='': name the workdir of a run")
        if self.store not in ("float32", "bfloat16"):
            raise ValueError(f"store={self.store!r}: must be float32 or bfloat16")
