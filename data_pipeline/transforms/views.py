"""A second view of an example, under draws of its own: what pulls views of one thing together asks for two."""

import dataclasses
from typing import Annotated

from data_pipeline import transforms
from data_pipeline.transforms import base, crop
from data_pipeline.view import VIEW, fresh


@dataclasses.dataclass(frozen=True)
class Transform(base.Transform):
    """Adds NAME/VARIANT for every modality NAME that is made from one of `fields`; several of them share one view.

    transforms: what is done to the second view, as `data.transforms` to the first; tokens are of another crop.
    In evaluation both are the same.
    """

    fields: tuple[str, ...]
    variant: str = "view"
    transforms: tuple[Annotated[base.Transform, base.TRANSFORM], ...] = (crop.Transform(),)

    @property
    def reads(self):
        inner = [field for transform in self.transforms for field in transform.reads if not field.startswith(VIEW)]
        return (*self.fields, *inner)

    @property
    def writes(self):
        return tuple(f"{field}/{self.variant}" for field in (*self.fields, VIEW))

    def check(self, modalities):
        transforms.check(self.transforms, modalities)

    def __call__(self, example, rng):
        view = fresh(example[VIEW], example, 0.0 if rng is None else rng.random())
        shown = transforms.apply(self.transforms, example | {VIEW: view}, train=rng is not None)
        return example | {f"{field}/{self.variant}": shown.get(field) for field in (*self.fields, VIEW)}
