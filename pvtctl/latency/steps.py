"""The timed function of a case: one forward pass, or one training step with AdamW."""

from __future__ import annotations

import contextlib
import importlib
from collections.abc import Callable, Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pvtctl.cost.build import build_model, build_own
from pvtctl.inference import EngineName
from pvtctl.inference.engines import make_engine
from pvtctl.models.fast_cpu import optimize_for_cpu
from pvtctl.models.fast_cpu.levers import lay_out
from pvtctl.models.layers.shapes import without_values
from pvtctl.models.registry import find_head

Case = dict[str, Any]
"""`pvtctl.latency.measure.Case` as JSON."""


def build_step(
    case: Case, device: torch.device, say: Callable[[str], None] = lambda text: None
) -> tuple[Callable[[], object], nn.Module]:
    """Build the function to time and its model, the case's with random weights; `say` gets messages of the engine."""
    model = optimize_for_cpu(_model_of(case)).to(device).eval()
    if case["channels_last"]:
        model = model.to(memory_format=torch.channels_last)
    elif case["mode"] == "forward":
        lay_out(model, device)
    engine = make_engine(case["engine"], device, say)
    if find_head(case["head"]) is not None:
        from pvtctl.latency.prediction_steps import build_prediction_step

        return build_prediction_step(case, model, device, engine), model
    images = torch.randn(case["batch_size"], 3, *case["size"], device=device).to(memory_format=memory_format(case))
    if case["mode"] == "train":
        return _classifier_training_step(case, model, images), model
    run = engine(model)

    def forward() -> object:
        with inference(case, device):
            return run(images)

    return forward, model


def _model_of(case: Case) -> nn.Module:
    """The case's model, with random weights."""
    if case["options"]:
        return build_own(case["backbone"], case["head"], case["num_classes"], case["options"])
    return build_model(case["backbone"], case["head"], case["num_classes"], case["output_stride"])


def load_libraries(case: Case) -> None:
    """Load what building and running the case's model imports, which is no memory of the model."""
    with without_values(), contextlib.suppress(Exception):  # building it for real will say what is wrong
        _model_of(case)
    engines = {EngineName.compile: ["torch._inductor.compile_fx"], EngineName.onnxruntime: ["onnxruntime"]}
    libraries = engines.get(EngineName(case["engine"]), [])
    if case["mode"] == "train":
        libraries.append("torch._dynamo")  # by optimisers
    if (head := find_head(case["head"])) is not None:
        libraries.append("pvtctl.latency.prediction_steps")
        libraries += ["torchvision.ops", "pycocotools.mask"] if head.detects else []
    for library in libraries:
        importlib.import_module(library)


def _classifier_training_step(case: Case, model: nn.Module, images: Tensor) -> Callable[[], object]:
    labels = torch.zeros(len(images), dtype=torch.long, device=images.device)
    run = compiled(case, model.train())

    def loss() -> Any:
        out = run(images)
        if case["head"] == "none":  # the pyramid has no loss: a mean makes gradients flow through all of it
            return sum(level.float().mean() for level in out)
        return F.cross_entropy(out.float(), labels)

    return training_step(case, model, images.device, loss)


def training_step(
    case: Case, model: nn.Module, device: torch.device, loss_of: Callable[[], Any]
) -> Callable[[], object]:
    """A function that computes the loss, in the case's precision, and does backward and an AdamW step."""
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-4)
    scaler = torch.amp.GradScaler(device.type, enabled=case["dtype"] == "fp16")

    def step() -> object:
        with _autocast(case, device):
            loss = loss_of()
        scaler.scale(loss).backward()
        scaler.step(optimizer)
        scaler.update()
        optimizer.zero_grad()
        return loss

    return step


def compiled(case: Case, model: nn.Module) -> Any:
    """The model for training, through torch.compile if the case asks for it."""
    return torch.compile(model) if case["engine"] == EngineName.compile else model


def memory_format(case: Case) -> torch.memory_format:
    """The layout of the case's images."""
    return torch.channels_last if case["channels_last"] else torch.contiguous_format


@contextlib.contextmanager
def inference(case: Case, device: torch.device) -> Iterator[None]:
    """Context without gradients, in the case's precision."""
    guard = torch.no_grad if case["engine"] == EngineName.compile else torch.inference_mode
    with guard(), _autocast(case, device):
        yield


def _autocast(case: Case, device: torch.device) -> Any:
    kind = {"bf16": torch.bfloat16, "fp16": torch.float16}.get(case["dtype"])
    return contextlib.nullcontext() if kind is None else torch.autocast(device.type, dtype=kind)
