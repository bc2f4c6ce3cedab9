"""Run the network of a model by torch, by torch.compile or by onnxruntime, or by the faster one; what comes before and
after it stays the same.

>>> engine = make_engine("onnxruntime", torch.device("cpu"))
>>> model = engine(create_detector("pvt_small", "retinanet", weights="retinanet.pth"))  # called as before
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from pvtctl.errors import UsageError, nearest
from pvtctl.export.exportable import RawModel, network_of
from pvtctl.inference import EngineName
from pvtctl.inference.auto import Choice, choose, why_torch
from pvtctl.inference.onnx_graphs import OnnxNetwork, require_engine
from pvtctl.io.console import say as say_on_stderr
from pvtctl.models.backbones import Backbone
from pvtctl.models.detector import Detector
from pvtctl.models.structures import ImageSize

Say = Callable[[str], None]
Network = Callable[[Tensor], Sequence[Tensor]]
"""Normalised images (B, 3, H, W) -> the outputs of `RawModel`."""


class EngineModel(nn.Module):
    """A model whose network is computed by `network`; called as the model itself is in inference."""

    def __init__(self, model: nn.Module, network: Network) -> None:
        super().__init__()
        self.model = model
        self.network = network

    def forward(self, images: Tensor, sizes: Sequence[ImageSize] | None = None, *detection: Any, **options: Any) -> Any:
        """As the model's; of a detector's arguments, `targets` must be None."""
        if isinstance(self.model, Detector):
            return self._detect(images, sizes, *detection, **options)
        out = self.network(images)
        return list(out) if isinstance(self.model, Backbone) else out[0]

    def _detect(
        self, images: Tensor, sizes: Sequence[ImageSize] | None, targets: None = None, *detection: Any, **options: Any
    ) -> Any:
        assert isinstance(self.model, Detector)
        assert targets is None, "an engine does not train"
        return self.model.detect_with(self.network, images, sizes, *detection, **options)


class Engine:
    """Computes networks by torch as it is: `engine(model)` is the model.

    Attributes: `name`; `fp32`, whether networks are computed in float32 whatever the precision; and `images`, the number of
    images that will come, for the user of the engine to set where it is known.
    """

    name = EngineName.torch
    fp32 = False
    images: int | None = None

    def __init__(self, device: torch.device, say: Say = say_on_stderr) -> None:
        self.device = device
        self.say = say
        self._made: dict[nn.Module, nn.Module] = {}

    @property
    def used(self) -> EngineName:
        """The engine that computes: `name`, or what `auto` has taken."""
        return self.name

    def __call__(self, model: nn.Module) -> nn.Module:
        """`model` (a Classifier, Backbone, Detector or DenseModel in eval mode) with its network computed by this engine.

        A second call with the same model gives the same object. Weights must not change afterwards.
        """
        if self.name is EngineName.torch:
            return model
        if model not in self._made:
            self._made[model] = EngineModel(model, self._network(network_of(model)))
        return self._made[model]

    def _network(self, raw: RawModel) -> Network:
        raise NotImplementedError


class CompileEngine(Engine):
    """`torch.compile`, with the weights as constants: the first image takes a minute or more, and so does another size."""

    name = EngineName.compile

    def _network(self, raw: RawModel) -> Network:
        compiled = torch.compile(raw, options={"freezing": True} if self.device.type == "cpu" else None)

        def run(images: Tensor) -> Sequence[Tensor]:
            with torch.no_grad():
                return compiled(images)

        return run


class OnnxEngine(Engine):
    """onnxruntime, with graphs as `pvtctl export` writes them, kept in the user's cache folder."""

    name = EngineName.onnxruntime
    fp32 = True

    def __init__(self, device: torch.device, say: Say = say_on_stderr) -> None:
        require_engine(device)
        super().__init__(device, say)

    def _network(self, raw: RawModel) -> Network:
        return OnnxNetwork(raw, self.device, self.say)


class AutoEngine(Engine):
    """torch or onnxruntime: what takes the first batch of a model less time, on a CPU."""

    name = EngineName.auto
    _used = EngineName.torch

    @property
    def used(self) -> EngineName:
        return self._used

    def __call__(self, model: nn.Module) -> nn.Module:
        if model not in self._made:
            self._made[model] = _AutoModel(model, self._take)
        return self._made[model]

    def _take(self, model: nn.Module, images: Tensor) -> nn.Module:
        why, runnable = why_torch(self.device), model
        choice = Choice(EngineName.torch, why or "")
        if why is None:
            network = OnnxNetwork(network_of(model), self.device, self.say)
            choice = choose(network, images, self.images)
            if choice.engine is EngineName.onnxruntime:
                runnable = EngineModel(model, network)
        self._used = choice.engine
        self.say(f"engine: {choice}")
        return runnable


class _AutoModel(nn.Module):
    """A model that becomes what `take` makes of it for the first images."""

    def __init__(self, model: nn.Module, take: Callable[[nn.Module, Tensor], nn.Module]) -> None:
        super().__init__()
        self.model = model
        self._take = take
        self._taken: nn.Module | None = None

    def forward(self, images: Tensor, *more: Any, **options: Any) -> Any:
        if self._taken is None:
            self._taken = self._take(self.model, images)
        return self._taken(images, *more, **options)


_ENGINES: dict[EngineName, type[Engine]] = {each.name: each for each in (Engine, CompileEngine, OnnxEngine, AutoEngine)}


def make_engine(name: str, device: torch.device, say: Say = say_on_stderr) -> Engine:
    """The engine of that name for models on `device`; `say` gets messages about work that takes long.

    Raises UsageError for unknown names, missing packages, and a device that the engine does not run on.
    """
    if name not in list(EngineName):
        raise UsageError(f"no engine {name!r}", nearest(name, list(EngineName)))
    return _ENGINES[EngineName(name)](device, say)
