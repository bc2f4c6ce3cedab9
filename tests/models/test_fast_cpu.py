"""`optimize_for_cpu`: a built model is plain torch until it is asked for, and the same model afterwards."""

from __future__ import annotations

import copy
import pickle
import re
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

import pvtctl
from pvtctl.models.fast_cpu import attention, choices, convolutions, linears, optimize_for_cpu, plain_kernels
from pvtctl.models.fast_cpu.choices import Choices, before_measurement, using
from pvtctl.models.fast_cpu.levers import PLAIN_OF, lay_out

SHALLOW = "+depths=1,1,1,1"
MODELS: dict[str, Callable[[], nn.Module]] = {
    "pvt": lambda: pvtctl.create_classifier(f"pvt_tiny@0.25{SHALLOW}", num_classes=3),
    "pvt_v2": lambda: pvtctl.create_classifier(f"pvt_v2_b0@0.25{SHALLOW}", num_classes=3),
    "pvt_v2_li": lambda: pvtctl.create_backbone(f"pvt_v2_b2_li@0.25{SHALLOW}"),
    "vit": lambda: pvtctl.create_classifier("deit_tiny_patch16@0.5+depth=4", num_classes=3),
    "vit_hybrid": lambda: pvtctl.create_backbone("vit_hybrid@0.25"),
    "resnet": lambda: pvtctl.create_backbone("resnet18@0.25"),
    "retinanet": lambda: pvtctl.create_detector(f"pvt_v2_b0@0.25{SHALLOW}", "retinanet", num_classes=3, width=64),
    "mask_rcnn": lambda: pvtctl.create_detector(f"pvt_v2_b0@0.25{SHALLOW}", "mask_rcnn", num_classes=3, width=32),
    "detr": lambda: pvtctl.create_detector(f"pvt_v2_b0@0.25{SHALLOW}", "detr", num_classes=3),
    "semantic_fpn": lambda: pvtctl.create_segmenter(
        f"pvt_tiny@0.25{SHALLOW}", "semantic_fpn", num_classes=3, head_options={"width": 64}
    ),
    "trans2seg": lambda: pvtctl.create_segmenter(
        f"pvt_tiny@0.25{SHALLOW}", "trans2seg", num_classes=3, head_options={"embed_dim": 64, "num_heads": 4}
    ),
    "deeplabv3plus": lambda: pvtctl.create_segmenter(
        "resnet18@0.25", "deeplabv3plus", num_classes=3, head_options={"width": 32}
    ),
    "dpt, segmentation": lambda: pvtctl.create_segmenter(
        f"pvt_v2_b0@0.25{SHALLOW}", "dpt", num_classes=3, head_options={"width": 32}
    ),
    "dpt, depth": lambda: pvtctl.create_depth_model("deit_tiny_patch16@0.5+depth=4", "dpt", head_options={"width": 32}),
    "midas": lambda: pvtctl.create_depth_model(f"pvt_v2_b0@0.25{SHALLOW}", "midas", head_options={"width": 32}),
}
SIZE = (128, 160)


@pytest.fixture(autouse=True)
def all_kernels(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """All of them, and Winograd's convolution on small maps of few channels too."""
    monkeypatch.setattr("pvtctl.models.fast_cpu.winograd.TILES", 4)
    for cost in ("TRANSFORMS", "FACTORS"):
        monkeypatch.setattr(f"pvtctl.models.fast_cpu.winograd.{cost}", 0)
    with using(replace(before_measurement("AVX512"), packed=True, winograd_from=32, winograd_trained_from=32)):
        yield


class Operations(TorchDispatchMode):
    """The namespaces of all operations that run."""

    def __init__(self) -> None:
        super().__init__()
        self.namespaces: set[str] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.namespaces.add(func.namespace)
        return func(*args, **(kwargs or {}))


def built(name: str) -> nn.Module:
    torch.manual_seed(0)
    model = MODELS[name]().eval()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.running_mean, -0.1, 0.1)
            nn.init.uniform_(module.running_var, 0.5, 1.5)
    return model


def images() -> Tensor:
    return torch.randn(1, 3, *SIZE, generator=torch.Generator().manual_seed(0))


def raw(model: nn.Module) -> list[Tensor]:
    """What a model computes before anything is sorted out, which noise would reorder."""
    if hasattr(model, "conventions"):
        features = model.features(images())
        if hasattr(model.head, "rpn"):
            return tree_leaves([features, model.head.rpn.raw(features), model.head.masks(features[0][:, :, :14, :14])])
        if model.neck is not None:
            return tree_leaves([features, model.head.raw(features)])
        out = model.head.raw(features, [SIZE], SIZE)
        return [out.memory, out.logits, out.boxes]
    return tree_leaves(model(images()))


def kinds(model: nn.Module) -> list[type[nn.Module]]:
    return [type(module) for module in model.modules()]


@pytest.mark.slow
@pytest.mark.parametrize("name", MODELS)
def test_is_equal_but_for_noise(name: str) -> None:
    model = built(name)
    plain_kinds, names = kinds(model), list(model.state_dict())
    with torch.inference_mode():
        plain = raw(model)
    assert optimize_for_cpu(model) is model
    fast_kinds = kinds(model)
    assert fast_kinds != plain_kinds or name == "resnet"
    assert list(model.state_dict()) == names
    with torch.inference_mode():
        fast = raw(model)
    assert len(fast) == len(plain)
    for ours, theirs in zip(fast, plain, strict=True):
        assert (ours - theirs).abs().max() <= 2e-4 * theirs.abs().max().clamp_min(1e-2)
    assert kinds(optimize_for_cpu(model)) == fast_kinds
    with plain_kernels(model):
        assert kinds(model) == plain_kinds
    assert kinds(model) == fast_kinds
    optimize_for_cpu(model, enabled=False)
    assert kinds(model) == plain_kinds
    with torch.inference_mode():
        assert all(torch.equal(ours, theirs) for ours, theirs in zip(raw(model), plain, strict=True))


@pytest.mark.slow
@pytest.mark.parametrize("name", MODELS)
def test_unasked_no_model_runs_an_operation_of_its_own_processor(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Seen in a dispatch mode, for which a fast kernel would step aside, and without one by what such a kernel calls."""

    def refused(*args: object, **kwargs: object) -> Any:
        raise AssertionError("a plain model asked for a CPU kernel")

    asked = [(linears, "linear"), (convolutions, "winograd"), (attention, "choose_attention")]
    asked += [(linears, "kept"), (convolutions, "kept")]
    for module in (linears, convolutions):
        asked += [(module, "is_plain_inference"), (module, "is_plain")]
    for module, kernel in asked:
        monkeypatch.setattr(module, kernel, refused)
    model = built(name)
    with torch.inference_mode():
        raw(model)
        with Operations() as operations:
            raw(model)
    assert operations.namespaces <= {"aten", "prims", "torchvision"}


@pytest.mark.slow
@pytest.mark.parametrize("name", MODELS)
def test_gradients_are_those_of_plain_layers(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """With smooth activations: noise that moves a ReLU across zero changes gradients by more than the kernels do."""
    monkeypatch.setattr(F, "relu", lambda x, inplace=False: F.softplus(x))
    found = []
    trained = name != "deeplabv3plus"  # whose pooled branch has one cell of the one image
    for model in (built(name).train(trained), optimize_for_cpu(built(name).train(trained))):
        torch.manual_seed(0)  # of dropped values, the same for both
        sum(out.square().mean() for out in raw(model) if out.requires_grad).backward()
        found.append([parameter.grad for parameter in model.parameters() if parameter.grad is not None])
    assert len(found[0]) == len(found[1])
    for expected, ours in zip(*found, strict=True):
        assert (ours - expected).norm() <= 1e-4 * expected.norm() + 1e-6


def test_switch_of_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    model = built("pvt")
    plain = kinds(model)
    monkeypatch.setenv("PVTCTL_FAST_CPU", "0")
    assert kinds(pvtctl.optimize_for_cpu(model)) == plain
    monkeypatch.setenv("PVTCTL_FAST_CPU", "1")
    assert kinds(pvtctl.optimize_for_cpu(model)) != plain


@pytest.mark.parametrize(
    ("choice", "kernels"),
    {
        "packed": {"FastLinear", "FastMlp", "FastConv"},
        "onednn_products": {"FastLinear"},
        "mlp_bytes": {"FastMlp"},
        "winograd_from": {"WinogradConv"},
        "winograd_trained_from": {"WinogradConv"},
        "folded_norms": {"FoldedConvNorm"},
        "patch_products": {"PatchConv"},
        "split_readout": {"SplitReassemble"},
        "plain_from": {"FastSelfAttention", "FastSpatialReductionAttention"},
        "plain_bf16": {"FastSelfAttention", "FastSpatialReductionAttention"},
        "split_queries": {"FastSelfAttention", "FastSpatialReductionAttention"},
    }.items(),
)
def test_only_what_is_chosen_is_taken(choice: str, kernels: set[str]) -> None:
    with using(replace(Choices(), **{choice: True})):
        models = [optimize_for_cpu(built(name)) for name in ("dpt, depth", "semantic_fpn")]
    assert {kind.__name__ for model in models for kind in kinds(model) if kind in PLAIN_OF} == kernels


@pytest.mark.parametrize("name", ["pvt", "dpt, depth", "semantic_fpn"])
def test_copies_and_pickles(name: str) -> None:
    model = optimize_for_cpu(built(name))
    with torch.inference_mode():
        expected = raw(model)
        for other in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
            assert kinds(other) == kinds(model)
            assert all(torch.equal(ours, theirs) for ours, theirs in zip(raw(other), expected, strict=True))


def test_state_goes_both_ways() -> None:
    plain, fast = built("pvt"), optimize_for_cpu(MODELS["pvt"]())
    fast.load_state_dict(plain.state_dict())
    plain.load_state_dict(fast.state_dict())
    assert [p.stride() for p in fast.parameters()] == [p.stride() for p in plain.parameters()]


@pytest.mark.parametrize("name", ["pvt", "semantic_fpn"])
def test_torch_compile_traces_one_graph(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a break at the choices, which lie in a file; each break would compile the layers one by one."""
    model = optimize_for_cpu(built(name))
    monkeypatch.setattr(choices, "_chosen", None)
    choices._measured.cache_clear()
    run = torch.compile(model, backend="eager", fullgraph=True)
    with torch.no_grad():
        assert torch.allclose(run(images()), model(images()), atol=1e-4)


def graph_of(model: nn.Module) -> str:
    """The operations of an exported model, with its own names of parameters: those of torch 2.6's graphs, and their order in
    the signature, depend on which class reads them.
    """
    program = torch.export.export(model, (images(),))
    names = program.graph_signature.inputs_to_parameters | program.graph_signature.inputs_to_buffers
    operations = program.graph_module.code.partition("):\n")[2]
    return re.sub(r"\w+", lambda word: names.get(word[0], word[0]), operations)


@pytest.mark.slow
def test_torch_export_gives_the_graph_of_the_plain_model() -> None:
    model = built("semantic_fpn")
    plain = graph_of(model)
    assert graph_of(optimize_for_cpu(model)) == plain


def layouts(model: nn.Module) -> set[bool]:
    """Whether kernels of more than one cell are in channels-last layout."""
    kernels = [each.weight for each in model.modules() if isinstance(each, nn.Conv2d) and each.kernel_size != (1, 1)]
    return {kernel.is_contiguous(memory_format=torch.channels_last) for kernel in kernels}


def test_resnets_are_laid_out_for_inference_on_this_cpu() -> None:
    model = optimize_for_cpu(pvtctl.create_backbone("resnet18@0.25")).eval()
    state = {name: value.clone() for name, value in model.state_dict().items()}
    cpu, meta = torch.device("cpu"), torch.device("meta")
    with torch.inference_mode():
        plain = model(images())
        with using(Choices()):
            assert layouts(lay_out(model, cpu)) == {False}
        with using(Choices(packed=True)):
            assert layouts(lay_out(model, meta)) == {False}
            assert lay_out(model, cpu) is model
            tokens = pvtctl.create_backbone("pvt_v2_b0@0.25")
            strides = [parameter.stride() for parameter in tokens.parameters()]
            assert [parameter.stride() for parameter in lay_out(tokens, cpu).parameters()] == strides
        assert layouts(model) == {True}
        for ours, theirs in zip(model(images()), plain, strict=True):
            assert ours.is_contiguous(memory_format=torch.channels_last)
            torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())
