"""Run the network of a model by torch, by torch.compile or by onnxruntime; what comes before and after it stays the same.

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

    Attributes: `name`, and `fp32`, whether networks are computed in float32 whatever the precision.
    """

    name = EngineName.torch
    fp32 = False

    def __init__(self, device: torch.device, say: Say = say_on_stderr) -> None:
        self.device = device
        self.say = say
        self._made: dict[nn.Module, EngineModel] = {}

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


_ENGINES: dict[EngineName, type[Engine]] = {each.name: each for each in (Engine, CompileEngine, OnnxEngine)}


def make_engine(name: str, device: torch.device, say: Say = say_on_stderr) -> Engine:
    """The engine of that name for models on `device`; `say` gets messages about work that takes long.

    Raises UsageError for unknown names, missing packages, and a device that the engine does not run on.
    """
    if name not in list(EngineName):
        raise UsageError(f"no engine {name!r}", nearest(name, list(EngineName)))
    return _ENGINES[EngineName(name)](device, say)
