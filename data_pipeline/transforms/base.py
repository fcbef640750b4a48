"""What every transform of examples says of itself. A transform is a file of this folder with a class `Transform`."""

from data_pipeline.discover import Files
from data_pipeline.view import VIEW

TRANSFORM = Files("data_pipeline.transforms", "Transform", "transform")
CROP, EDITS = f"{VIEW}.crop", f"{VIEW}.edits"  # parts of an example's View, where a transform says what it writes


class Transform:
    """A frozen dataclass of settings, and (example, rng) → example: fields replaced or added, nothing else changed.

    An example is {field: value} as a source gave it, with its `row` and, as `VIEW`, its `View`. rng: this transform's
    for this example; None in evaluation, which shows one form of everything, the same every time.

    reads: the fields that it needs, beside what modalities are made from.
    optional: those of them that no example of a source needs to have.
    writes: the fields that it sets. FIELD/VARIANT beside FIELD adds the entry NAME/VARIANT to a batch for every
    modality NAME that is made from FIELD: NAME again, read with all fields of this variant in the place of the others.
    shows: whether it draws what pictures show: examples without any are then spared.
    """

    reads: tuple[str, ...] = ()
    optional: tuple[str, ...] = ()
    writes: tuple[str, ...] = ()
    shows = False

    def check(self, modalities):
        """ValueError if it would spoil one of these."""

    def __call__(self, example: dict, rng) -> dict:
        raise NotImplementedError
