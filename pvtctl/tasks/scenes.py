"""The built-in scenes as sources of detection, segmentation and depth data, rendered on the fly."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pvtctl.data.scenes.scene import DEFAULT_SAMPLES, Materials, Scene, check_split, digest_name, render_scene
from pvtctl.errors import UsageError

_CACHE_BYTES = 256 * 2**20


class RenderedScenes(ABC):
    """The scenes of a split, square at `size`, with the ground truth of a task.

    Rendered scenes are kept in memory, up to 256 MiB a process. Raises UsageError for an unknown split or no samples.
    """

    class_names: list[str]
    bytes_per_pixel: ClassVar[int]
    """Of a rendered scene in memory."""

    def __init__(
        self, split: str, *, size: int = 224, num_samples: int | None = None, materials: Materials = "any"
    ) -> None:
        check_split(split)
        self.count = DEFAULT_SAMPLES[split] if num_samples is None else num_samples
        if self.count < 1:
            raise UsageError(f"scenes cannot render {self.count} images", "ask for at least one")
        self.split, self.size, self.materials = split, size, materials
        self._cache: dict[int, tuple[Tensor, Any]] = {}
        self._cache_limit = _CACHE_BYTES // (self.bytes_per_pixel * size * size)

    def __len__(self) -> int:
        return self.count

    def name(self, index: int) -> str:
        """The same name as in the classification data."""
        return f"{self.split}_{index:06d}"

    def pixels(self, index: int) -> Tensor:
        """uint8 (3, H, W)."""
        return self.rendered(index)[0]

    @abstractmethod
    def truth_of(self, scene: Scene) -> Any:
        """The ground truth as it is kept in memory."""

    def rendered(self, index: int) -> tuple[Tensor, Any]:
        """The pixels and `truth_of` a scene."""
        found = self._cache.get(index)
        if found is None:
            scene = render_scene(0, self.split, index, self.size, self.materials)
            found = torch.from_numpy(scene.image).permute(2, 0, 1), self.truth_of(scene)
            if len(self._cache) < self._cache_limit:
                self._cache[index] = found
        return found

    def digest(self, indices: NDArray[np.int64]) -> str:
        """Changes with the renderer, the size, the split and the choice of scenes; renders nothing. 0 is the seed."""
        return f"{digest_name(self.materials)}-{self.split}-0-{self.size}-{len(indices)}"
