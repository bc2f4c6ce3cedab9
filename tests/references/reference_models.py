"""Reference cases of the networks: maps, raw outputs, detections, losses and gradients of models filled by a formula."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import Any

import torch
from reference_values import fill, image, layout, make_faint, uniform
from torch import Tensor, nn

import pvtctl
from pvtctl.models.backbones import backbone_names
from pvtctl.models.losses.cross_entropy import cross_entropy
from pvtctl.models.losses.depth import gradient_matching, silog, ssi_trimmed
from pvtctl.models.structures import DetectOptions, Objects

Case = Callable[[], dict[str, Any]]
CLASSES = 5
SMALL, ODD = (1, 3, 64, 96), (2, 3, 71, 101)
"""The second is padded by most heads."""
ODD_SIZES = [(71, 101), (64, 80)]
"""Of the two images within a batch of `ODD`."""


@torch.inference_mode()
def backbone(name: str, *, deep: bool = False, **options: Any) -> dict[str, Any]:
    """Maps at two sizes, of a faint model too, and a classifier's logits; of a `deep` model the first alone."""
    model = fill(pvtctl.create_backbone(name, **options))
    classifier = pvtctl.create_classifier(name, num_classes=CLASSES, **options)
    found: dict[str, Any] = {"layout": layout(model), "layout of the classifier": layout(classifier)}
    found |= _numbered("map", model(image(*SMALL)))
    if deep:
        return found
    found |= _numbered("map odd", model(image(1, *ODD[1:])))
    make_faint(model)
    found |= _numbered("map faint", model(image(*SMALL, faint=True)))
    return found | {"logits": fill(classifier)(image(*SMALL))}


RAW = {
    "retinanet": ("neck", "head.classification_head.cls_logits", "head.regression_head.bbox_reg"),
    "mask_rcnn": ("neck", "head.rpn.cls_logits", "head.rpn.bbox_pred"),
    "detr": ("head.input_proj", "head.class_embed", "head.bbox_embed"),
}
"""Layers whose outputs are a detector's raw ones, by their names in checkpoints."""


def detector(name: str, head: Any, shape: tuple[int, ...] = SMALL, **options: Any) -> dict[str, Any]:
    """Raw outputs and detections of one image and of two with padding, losses and gradients of the two."""
    model = fill(pvtctl.create_detector(name, head, num_classes=CLASSES, **options))
    found: dict[str, Any] = {"layout": layout(model)}
    outputs: dict[str, list[Tensor]] = {}

    def keep(layer: str, module: nn.Module, inputs: Any, output: Any) -> None:
        outputs.setdefault(layer, []).extend([output] if isinstance(output, Tensor) else output)

    hooks = [model.get_submodule(layer).register_forward_hook(partial(keep, layer)) for layer in RAW[head]]
    with torch.inference_mode():
        for where, pixels, sizes in (("", image(*shape), None), (" odd", image(*ODD), ODD_SIZES)):
            for at, one in enumerate(model(pixels, sizes, options=DetectOptions(max_detections=20))):
                found |= {f"scores{where} {at}": one.scores, f"boxes{where} {at}": one.boxes}
                found |= {f"labels{where} {at}": " ".join(map(str, one.labels.tolist()))}
                if one.grids is not None:
                    found |= {f"grids{where} {at}": one.grids.probabilities}
            for layer, each in outputs.items():
                found |= _numbered(f"{layer}{where}", each)
            outputs.clear()
    for hook in hooks:
        hook.remove()
    torch.manual_seed(0)
    losses = model.train()(image(*ODD), ODD_SIZES, [_objects(size) for size in ODD_SIZES])
    return found | {key: value.item() for key, value in losses.items()} | _gradients(model, losses["loss"])


def _objects(size: tuple[int, int]) -> Objects:
    height, width = size
    boxes = torch.tensor([[4.0, 6.0, 40.0, 50.0], [30.0, 20.0, 75.0, 60.0], [8.5, 40.0, 24.5, 56.0]])
    rows, columns = torch.arange(height)[:, None], torch.arange(width)
    masks = torch.stack([(rows >= y0) & (rows < y1) & (columns >= x0) & (columns < x1) for x0, y0, x1, y1 in boxes])
    return Objects(boxes, torch.tensor([0, 3, 4]), masks & ((rows + columns) % 7 > 0))


def segmenter(
    name: str,
    head: Any,
    head_options: Mapping[str, Any],
    *,
    backward: bool = True,
    trained_in: torch.dtype = torch.float32,
    **options: Any,
) -> dict[str, Any]:
    """Logits at two sizes, in training the loss with auxiliary maps and, with `backward`, its gradients."""
    settings = {"dropout": 0.0, **head_options}
    model = fill(pvtctl.create_segmenter(name, head, num_classes=CLASSES, head_options=settings, **options))
    found = _dense(model)
    labels = torch.from_numpy(uniform("labels", (2, 71, 101)) * 3 + 3).byte()
    labels[labels >= CLASSES] = 255
    out, others = model.to(trained_in).train()(image(*ODD).to(trained_in), auxiliary=True)
    losses = [cross_entropy(model.at_size(each, (71, 101)), labels) for each in (out, *others)]
    found |= {f"loss {at}": loss.item() for at, loss in enumerate(losses)}
    return found | _gradients(model, torch.stack(losses).sum()) if backward else found


def depth_model(
    name: str, head: Any, head_options: Mapping[str, Any], *, backward: bool = True, **options: Any
) -> dict[str, Any]:
    """Inverse depth at two sizes, the three losses of depth and, with `backward`, their gradients."""
    model = fill(pvtctl.create_depth_model(name, head, head_options=head_options, **options))
    found = _dense(model)
    truth = torch.from_numpy(uniform("depth", (2, 71, 101))) * 2 + 3
    mask = torch.from_numpy(uniform("where", (2, 71, 101))) > -0.8
    out = model.train().at_size(model(image(*ODD)), (71, 101))[:, 0]
    losses = {
        "ssi_trimmed": ssi_trimmed(out, 1 / truth, mask),
        "gradient_matching": gradient_matching(out, 1 / truth, mask),
        "silog": silog(1 / (0.1 * out.abs() + 0.2), truth, mask),
    }
    found |= {key: loss.item() for key, loss in losses.items()}
    return found | _gradients(model, torch.stack(list(losses.values())).sum()) if backward else found


@torch.inference_mode()
def _dense(model: Any) -> dict[str, Any]:
    small, odd = model(image(*SMALL)), model(image(*ODD))
    return {"layout": layout(model), "map": small, "map odd": odd, "map at size": model.at_size(odd, (71, 101))}


def _gradients(model: nn.Module, loss: Tensor) -> dict[str, float]:
    """Norm of the loss's gradient in each part: backbone, neck, head."""
    loss.backward()
    parts: dict[str, list[Tensor]] = {}
    for key, value in model.named_parameters():
        if value.grad is not None:
            parts.setdefault(key.split(".")[0], []).append(value.grad.norm())
    return {f"gradient of the {part}": torch.stack(norms).norm().item() for part, norms in parts.items()}


def _numbered(name: str, maps: Iterable[Tensor]) -> dict[str, Tensor]:
    return {f"{name} {at}": each for at, each in enumerate(maps)}


NARROW = {"pvt_huge": 0.125, "pvt_v2_b5": 0.125, "vit_large_patch16": 0.125}
DEEP = ("pvt_huge", "pvt_large", "pvt_v2_b3", "pvt_v2_b4", "pvt_v2_b5", "resnet101", "resnet152", "resnext101")
"""Beginnings of the names of models that differ from others in depth, or in width, alone."""
FULL_WIDTH = ("pvt_tiny", "pvt_v2_b0", "resnet18", "deit_tiny_patch16")
BACKBONES: dict[str, Case] = {
    **{
        (spec := f"{name}@{NARROW.get(name, 0.25)}"): partial(backbone, spec, deep=name.startswith(DEEP))
        for name in backbone_names()
    },
    **{name: partial(backbone, name) for name in FULL_WIDTH},
    "resnet50c@0.25 stride 8": partial(backbone, "resnet50c@0.25", output_stride=8),
}
FROZEN = {"frozen_stages": 1, "freeze_norm": True}
DETECTORS: dict[str, Case] = {
    "retinanet pvt_tiny": partial(detector, "pvt_tiny@0.25", "retinanet", width=64),
    "retinanet torchvision": partial(
        detector, "resnet50@0.25", "retinanet", width=64, conventions="torchvision", backbone_options=FROZEN
    ),
    "retinanet large": partial(detector, "pvt_v2_b0@0.25", "retinanet", (1, 3, 264, 256), width=128),
    "mask_rcnn pvt_v2_b2_li": partial(detector, "pvt_v2_b2_li@0.25", "mask_rcnn", width=32),
    "mask_rcnn torchvision": partial(
        detector, "resnet18@0.25", "mask_rcnn", width=32, conventions="torchvision", backbone_options=FROZEN
    ),
    "detr pvt_small": partial(detector, "pvt_small@0.25", "detr", num_queries=20, dropout=0.0),
}
# Gradients of batch norms over few cells, and of a hybrid, are too sensitive to rounding to be compared: such norms are
# frozen or trained in float64, and a hybrid's gradients left out.
SEGMENTERS: dict[str, Case] = {
    "semantic_fpn pvt_tiny": partial(segmenter, "pvt_tiny@0.25", "semantic_fpn", {}),
    "semantic_fpn resnet18c": partial(segmenter, "resnet18c@0.25", "semantic_fpn", {"width": 64}),
    "trans2seg pvt_v2_b0": partial(segmenter, "pvt_v2_b0@0.25", "trans2seg", {}),
    "trans2seg resnet50s": partial(segmenter, "resnet50s@0.25", "trans2seg", {}, output_stride=16, freeze_norm=True),
    "deeplabv3plus resnet50c": partial(
        segmenter,
        "resnet50c@0.25",
        "deeplabv3plus",
        {"width": 64, "projection": 3, "auxiliary_weight": 0.4},
        output_stride=8,
        freeze_norm=True,
    ),
    "deeplabv3plus pvt_v2_b1": partial(segmenter, "pvt_v2_b1@0.25", "deeplabv3plus", {}, trained_in=torch.float64),
    "dpt vit": partial(segmenter, "vit_base_patch16@0.25", "dpt", {"width": 64, "readout": "add"}),
    "dpt vit_hybrid": partial(segmenter, "vit_hybrid@0.25", "dpt", {"width": 64}, backward=False),
    "dpt pvt_v2_b0": partial(segmenter, "pvt_v2_b0@0.25", "dpt", {"width": 64}),
}
DEPTH_MODELS: dict[str, Case] = {
    "dpt vit_large": partial(depth_model, "vit_large_patch16@0.125", "dpt", {"width": 64, "taps": [6, 12, 18, 24]}),
    "dpt deit_distilled": partial(
        depth_model, "deit_base_distilled_patch16@0.25", "dpt", {"width": 64, "readout": "ignore"}
    ),
    "dpt vit_hybrid": partial(depth_model, "vit_hybrid@0.25", "dpt", {"width": 64}, backward=False),
    "dpt pvt_tiny": partial(depth_model, "pvt_tiny@0.25", "dpt", {"width": 64}),
    "midas resnext101": partial(depth_model, "resnext101_32x8d@0.25", "midas", {"width": 64}, freeze_norm=True),
    "midas pvt_v2_b0": partial(depth_model, "pvt_v2_b0@0.25", "midas", {"width": 64}),
}
