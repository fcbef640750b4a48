"""What the parameters were when training began: an anchor."""

import dataclasses
from typing import ClassVar


@dataclasses.dataclass(frozen=True)
class Reference:
    """A copy of the parameters with which the run starts; nothing changes it."""

    workdir: ClassVar[str] = ""  # it follows what learns

    def update(self, reference, params, step, steps: int):
        return reference
