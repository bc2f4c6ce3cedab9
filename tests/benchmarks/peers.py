"""What ours is timed against. Each peer is built as its users build it, with random weights."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

import pvtctl

DIMS, DEPTHS, HEADS, MLP_RATIOS, SR_RATIOS = (64, 128, 320, 512), (3, 4, 6, 3), (1, 2, 5, 8), (8, 8, 4, 4), (8, 4, 2, 1)


class PlainAttention(nn.Module):
    """Spatial-reduction attention as PVT section 3.3 writes it: reduce by convolution, then softmax(q k^T) v."""

    def __init__(self, dim: int, heads: int, sr_ratio: int) -> None:
        super().__init__()
        self.heads, self.sr_ratio, self.scale = heads, sr_ratio, (dim // heads) ** -0.5
        self.q, self.kv, self.proj = nn.Linear(dim, dim), nn.Linear(dim, 2 * dim), nn.Linear(dim, dim)
        if sr_ratio > 1:
            self.sr, self.norm = nn.Conv2d(dim, dim, sr_ratio, sr_ratio), nn.LayerNorm(dim)

    def forward(self, tokens: Tensor, height: int, width: int) -> Tensor:
        batch, count, dim = tokens.shape
        q = self.q(tokens).reshape(batch, count, self.heads, -1).transpose(1, 2)
        reduced = tokens
        if self.sr_ratio > 1:
            x = self.sr(tokens.transpose(1, 2).reshape(batch, dim, height, width))
            reduced = self.norm(x.flatten(2).transpose(1, 2))
        k, v = self.kv(reduced).reshape(batch, -1, 2, self.heads, dim // self.heads).permute(2, 0, 3, 1, 4)
        mixed = ((q @ k.transpose(-2, -1)) * self.scale).softmax(-1) @ v
        return self.proj(mixed.transpose(1, 2).reshape(batch, count, dim))


class PlainBlock(nn.Module):
    def __init__(self, dim: int, heads: int, mlp_ratio: int, sr_ratio: int) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(dim, eps=1e-6), nn.LayerNorm(dim, eps=1e-6)
        self.attn = PlainAttention(dim, heads, sr_ratio)
        self.mlp = nn.Sequential(nn.Linear(dim, dim * mlp_ratio), nn.GELU(), nn.Linear(dim * mlp_ratio, dim))

    def forward(self, tokens: Tensor, height: int, width: int) -> Tensor:
        tokens = tokens + self.attn(self.norm1(tokens), height, width)
        return tokens + self.mlp(self.norm2(tokens))


class PlainPyramid(nn.Module):
    """PVT-Small's pyramid in the original formulation: plain attention and (B, C, H, W) convolutions."""

    def __init__(self) -> None:
        super().__init__()
        self.embeds, self.norms, self.tables, self.stages = (
            nn.ModuleList(),
            nn.ModuleList(),
            nn.ParameterList(),
            nn.ModuleList(),
        )
        for stage, dim in enumerate(DIMS):
            patch, before = (4, 3) if stage == 0 else (2, DIMS[stage - 1])
            self.embeds.append(nn.Conv2d(before, dim, patch, patch))
            self.norms.append(nn.LayerNorm(dim))
            self.tables.append(nn.Parameter(torch.randn(1, dim, 56 >> stage, 56 >> stage) * 0.02))
            self.stages.append(
                nn.ModuleList(
                    PlainBlock(dim, HEADS[stage], MLP_RATIOS[stage], SR_RATIOS[stage]) for _ in range(DEPTHS[stage])
                )
            )

    def forward(self, x: Tensor) -> list[Tensor]:
        maps = []
        for embed, norm, table, blocks in zip(self.embeds, self.norms, self.tables, self.stages, strict=True):
            x = embed(x)
            height, width = x.shape[-2:]
            table = nn.functional.interpolate(table, (height, width), mode="bilinear").flatten(2).transpose(1, 2)
            tokens = norm(x.flatten(2).transpose(1, 2)) + table
            for block in blocks:
                tokens = block(tokens, height, width)
            x = tokens.transpose(1, 2).reshape(len(x), -1, height, width).contiguous()
            maps.append(x)
        return maps


class _Logits(nn.Module):
    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, images: Tensor) -> Tensor:
        return self.model(images).logits


def _transformers_pvt() -> nn.Module:
    from transformers import PvtConfig, PvtForImageClassification

    return _Logits(PvtForImageClassification(PvtConfig(depths=list(DEPTHS), num_labels=1000)))


def _ours_classifier() -> nn.Module:
    return pvtctl.optimize_for_cpu(pvtctl.create_classifier("pvt_small"))


def _ours_pyramid() -> nn.Module:
    return pvtctl.optimize_for_cpu(pvtctl.create_backbone("pvt_small"))


def _ours_retinanet(backbone: str) -> nn.Module:
    return pvtctl.optimize_for_cpu(pvtctl.create_detector(backbone, "retinanet", num_classes=80))


class _TorchvisionRetinaNet(nn.Module):
    """torchvision's detector takes a list of images; 800 and 1333 are its own sides, so that it resizes nothing here."""

    def __init__(self, short_side: int = 800) -> None:
        super().__init__()
        from torchvision.models.detection import retinanet_resnet50_fpn

        self.model = retinanet_resnet50_fpn(weights=None, weights_backbone=None, num_classes=80, min_size=short_side)

    def forward(self, images: Tensor) -> object:
        return self.model(list(images))


class _PlainBackbone(PlainPyramid):
    feature_channels, feature_strides = DIMS, (4, 8, 16, 32)


def _ours_semantic_fpn() -> nn.Module:
    return pvtctl.optimize_for_cpu(pvtctl.create_segmenter("pvt_small", "semantic_fpn", num_classes=150))


def _plain_attention() -> nn.Module:
    """Our neck and head on the original formulation of the backbone."""
    model = _ours_semantic_fpn()
    model.backbone = _PlainBackbone()
    return model


class _PlainSemanticFpn(nn.Module):
    """All of it from torch's and torchvision's own modules, as an installation without any of ours would run it."""

    def __init__(self) -> None:
        super().__init__()
        from torchvision.ops import FeaturePyramidNetwork

        self.backbone = PlainPyramid()
        self.neck = FeaturePyramidNetwork(list(DIMS), 256)
        self.towers = nn.ModuleList()
        for doublings in (0, 1, 2, 3):
            layers: list[nn.Module] = []
            for step in range(max(1, doublings)):
                layers += [
                    nn.Conv2d(128 if step else 256, 128, 3, padding=1, bias=False),
                    nn.BatchNorm2d(128),
                    nn.ReLU(),
                ]
                if doublings:
                    layers.append(nn.Upsample(scale_factor=2, mode="bilinear", align_corners=False))
            self.towers.append(nn.Sequential(*layers))
        self.classes = nn.Conv2d(128, 150, 1)

    def forward(self, images: Tensor) -> Tensor:
        maps = self.neck({str(at): one for at, one in enumerate(self.backbone(images))}).values()
        parts = [tower(one) for tower, one in zip(self.towers, maps, strict=True)]
        total = parts[0]
        for part in parts[1:]:
            total = total + part
        return self.classes(total)


def _ours_dpt_large() -> nn.Module:
    return pvtctl.optimize_for_cpu(pvtctl.create_depth_model("vit_large_patch16", "dpt", image_size=384))


def _ours_dpt_pvt() -> nn.Module:
    return pvtctl.optimize_for_cpu(pvtctl.create_depth_model("pvt_small", "dpt"))


class _TransformersDpt(nn.Module):
    """DPT-Large by the configuration of its published checkpoint; the class's own defaults are DPT-Base's."""

    def __init__(self) -> None:
        super().__init__()
        from transformers import DPTConfig, DPTForDepthEstimation

        config = DPTConfig(
            hidden_size=1024,
            num_hidden_layers=24,
            num_attention_heads=16,
            intermediate_size=4096,
            backbone_out_indices=[5, 11, 17, 23],
            neck_hidden_sizes=[256, 512, 1024, 1024],
            readout_type="project",
        )
        self.model = DPTForDepthEstimation(config)

    def forward(self, images: Tensor) -> Tensor:
        return self.model(images).predicted_depth


def _ours_detector(head: str) -> nn.Module:
    return pvtctl.optimize_for_cpu(pvtctl.create_detector("pvt_small", head, num_classes=80))


class _TorchvisionPyramid(nn.Module):
    """The four maps of torchvision's ResNet-50."""

    def __init__(self) -> None:
        super().__init__()
        from torchvision.models import resnet50
        from torchvision.models._utils import IntermediateLayerGetter

        self.model = IntermediateLayerGetter(resnet50(), {f"layer{at}": str(at) for at in (1, 2, 3, 4)})

    def forward(self, images: Tensor) -> list[Tensor]:
        return list(self.model(images).values())


def _torchvision_classifier() -> nn.Module:
    from torchvision.models import resnet50

    return resnet50()


def in_channels_last(build: Callable[[], nn.Module]) -> Callable[[], nn.Module]:
    return lambda: build().to(memory_format=torch.channels_last)


def loss_of(model: nn.Module, images: Tensor) -> Tensor:
    """The loss of a training step: of a class, of seven objects an image, or the mean of a pyramid's maps."""
    if isinstance(model, _TorchvisionRetinaNet) or hasattr(model, "conventions"):
        corner = torch.tensor([[8.0, 8.0]], device=images.device) * torch.arange(1, 8, device=images.device)[:, None]
        boxes = torch.cat([corner / 4, corner / 4 + 8 + corner / 2], 1)
        labels = torch.arange(7, device=images.device)
        if isinstance(model, _TorchvisionRetinaNet):
            losses = model.model(list(images), [{"boxes": boxes, "labels": labels}] * len(images))
            return torch.stack(list(losses.values())).sum()
        from pvtctl.models.structures import Objects

        return model(images, None, [Objects(boxes, labels)] * len(images))["loss"]
    out = model(images)
    if isinstance(out, list):
        return torch.stack([level.float().mean() for level in out]).sum()
    return nn.functional.cross_entropy(out.float(), torch.arange(len(images), device=images.device))


class _TorchvisionMaskRcnn(nn.Module):
    """As `_TorchvisionRetinaNet`."""

    def __init__(self) -> None:
        super().__init__()
        from torchvision.models.detection import maskrcnn_resnet50_fpn

        self.model = maskrcnn_resnet50_fpn(weights=None, weights_backbone=None, num_classes=81)

    def forward(self, images: Tensor) -> object:
        return self.model(list(images))


class _TransformersDetr(nn.Module):
    """DETR with its own ResNet-50, at the size of the images."""

    def __init__(self) -> None:
        super().__init__()
        from transformers import DetrConfig, DetrForObjectDetection

        config = DetrConfig(use_pretrained_backbone=False, use_timm_backbone=False, backbone=None, num_labels=80)
        self.model = DetrForObjectDetection(config)

    def forward(self, images: Tensor) -> object:
        return self.model(images).pred_boxes


BUILD: dict[str, Callable[[], nn.Module]] = {
    "pvt": _ours_classifier,
    "pvt-pyramid": _ours_pyramid,
    "retinanet-pvt": lambda: _ours_retinanet("pvt_small"),
    "mask-rcnn-pvt": lambda: _ours_detector("mask_rcnn"),
    "detr-pvt": lambda: _ours_detector("detr"),
    "dpt-pvt": _ours_dpt_pvt,
    "retinanet-r50": lambda: _ours_retinanet("resnet50"),
    "semantic-fpn": _ours_semantic_fpn,
    "dpt-large": _ours_dpt_large,
    "plain-attention": _plain_attention,
    "plain-pyramid": PlainPyramid,
    "plain-semantic-fpn": _PlainSemanticFpn,
    "torchvision-mask-rcnn": _TorchvisionMaskRcnn,
    "torchvision-retinanet": _TorchvisionRetinaNet,
    "torchvision-retinanet, channels last": in_channels_last(_TorchvisionRetinaNet),
    "torchvision-r50, channels last": in_channels_last(_torchvision_classifier),
    "torchvision-pyramid, channels last": in_channels_last(_TorchvisionPyramid),
    "transformers": _transformers_pvt,
    "transformers-detr": _TransformersDetr,
    "transformers-dpt": _TransformersDpt,
    "torchvision-retinanet-64": lambda: _TorchvisionRetinaNet(64),
}
