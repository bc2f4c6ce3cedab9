"""The metadata in checkpoint files: what the tensors do not say about their model, classes and training. No torch."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, Strict, ValidationError

from pvtctl.errors import UsageError
from pvtctl.io.normalization import NORMALIZATIONS, Normalization

Finite = Annotated[float, Field(allow_inf_nan=False)]
ThreeNumbers = Annotated[list[Finite], Field(min_length=3, max_length=3)]
ThreePositive = Annotated[list[Annotated[float, Field(gt=0, allow_inf_nan=False)]], Field(min_length=3, max_length=3)]


class CheckpointMeta(BaseModel):
    """Metadata of a checkpoint; every field is None where the file does not state it.

    Stored as JSON in the header of pvtctl's safetensors files. Third-party files state a few fields (class names, epoch).
    Keys of other versions are kept as they are.
    """

    model_config = ConfigDict(frozen=True, extra="allow", strict=True, use_attribute_docstrings=True)

    pvtctl_version: str | None = None
    backbone: str | None = None
    """Name, width and options, `pvt_tiny@0.25+depths=1,1,1,1`."""
    data: str | None = None
    recipe: str | None = None
    row: str | None = None
    profile: str | None = None
    modules: list[dict[str, str]] | None = None
    """File name and hash of the user's modules that the model needs: `Extension.as_meta`."""
    image_size: int | None = None
    """Side in pixels of a classifier's square crop."""
    resize: int | None = None
    """Side in pixels that the short side is resized to before a classifier's crop."""
    task: str | None = None
    head: str | None = None
    head_options: dict[str, Any] | None = None
    num_queries: int | None = None
    conventions: Literal["papers", "torchvision"] | None = None
    """Of a detector."""
    output_stride: int | None = None
    """Of a ResNet's last map."""
    position_size: int | None = None
    """Side in pixels of the images that the backbone's position table was built for."""
    detection: dict[str, Any] | None = None
    """The recipe's `data.detection`; likewise the next two."""
    segmentation: dict[str, Any] | None = None
    depth: dict[str, Any] | None = None
    exif: Literal["apply", "ignore"] | None = None
    """The recipe's `data.exif`."""
    grey_range: Annotated[list[float], Field(min_length=2, max_length=2)] | None = None
    """Values of 16-bit grey images that became black and white in training."""
    normalization: Literal["imagenet", "half"] | None = None
    """Mean and std by name, in files of earlier versions."""
    mean: ThreeNumbers | None = None
    """Of the pixels in training, as fractions of the full range; likewise `std`. See `pixels`."""
    std: ThreePositive | None = None
    channel_order: Literal["rgb", "bgr"] | None = None
    """Of the network's input, of `mean` and of `std`; unset: RGB."""
    scale_shift: Annotated[list[float], Field(min_length=2, max_length=2)] | None = None
    """(a, b) of a metric depth model: metres = 1 / (a x + b)."""
    num_classes: int | None = None
    class_names: list[str] | None = None
    category_ids: list[int] | None = None
    """A detector's label -> category id in its training annotations."""
    palette: list[Annotated[tuple[int, int, int], Strict(False)]] | None = None
    """RGB colour of each class, 0 to 255."""
    score: dict[str, float | None] | float | None = None
    """The metrics of these weights on the validation split, as fractions."""
    epoch: int | None = None
    converted_from: dict[str, str] | None = None
    """Format, file name and hash of the original of a converted file."""
    inside: str | None = None
    """The key of a training script's file under which the weights were."""
    also_averaged: list[str] | None = None
    """Keys of that file with averaged weights, which were not taken."""
    style: Literal["dilated", "caffe"] | None = None
    """A third-party ResNet that differs from pvtctl's."""

    @classmethod
    def read(cls, stated: Mapping[str, Any], source: object) -> Self:
        """The metadata that the file `source` states. Raises UsageError for values of another type."""
        try:
            return cls.model_validate(stated)
        except ValidationError as error:
            raise metadata_error(error, source) from error

    @property
    def pixels(self) -> Normalization | None:
        """How inputs were normalised in training, as far as the file states it."""
        if self.mean is None or self.std is None:
            return NORMALIZATIONS[self.normalization] if self.normalization else None
        (m0, m1, m2), (s0, s1, s2) = self.mean, self.std
        return Normalization((m0, m1, m2), (s0, s1, s2), self.channel_order or "rgb")

    def with_pixels(self, how: Normalization) -> Self:
        """A copy that states `how`."""
        order = {"channel_order": how.order} if how.order != (self.channel_order or "rgb") else {}
        return self.updated(mean=list(how.mean), std=list(how.std), **order)

    def updated(self, **fields: Any) -> Self:
        """A copy with these fields."""
        return self.model_copy(update=fields)

    def as_json(self) -> dict[str, Any]:
        """The stated fields, those stated as null included, as JSON values."""
        return self.model_dump(exclude_unset=True)


def metadata_error(error: ValidationError, source: object = "the checkpoint") -> UsageError:
    """The error message for metadata of `source` with an invalid value."""
    first = error.errors()[0]
    key = ".".join(map(str, first["loc"]))
    return UsageError(
        f"{source}: the metadata is damaged: {key}: {first['msg'].lower()}", "use another copy of the file"
    )


def is_safetensors(start: bytes) -> bool:
    """Whether the file starts as safetensors do: a little-endian header length, then JSON."""
    return len(start) > 8 and start[8:9] == b"{" and int.from_bytes(start[:8], "little") < 1 << 32
