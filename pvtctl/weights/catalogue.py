"""Checkpoints that others published: where they are, and what their publishers say of them. Loads without torch."""

from __future__ import annotations

from dataclasses import dataclass

_PVT = "https://github.com/whai362/PVT/releases/download/v2"
_DEIT = "https://dl.fbaipublicfiles.com/deit"
_TORCHVISION = "https://download.pytorch.org/models"


@dataclass(frozen=True)
class Published:
    """One published checkpoint of an ImageNet-1K classifier at 224 pixels."""

    name: str
    """What `--weights` and `pvtctl weights fetch` call it."""
    backbone: str
    url: str
    top1: float
    """Top-1 accuracy in percent, as the publisher prints it."""
    source: str
    """Who publishes it, and where the accuracy is printed."""
    license: str
    sha256: str | None = None
    """The first hex digits of the file's SHA-256, where the publisher gives them."""

    @property
    def file_name(self) -> str:
        return self.url.rsplit("/", 1)[-1]


def _pvt(name: str, top1: float) -> Published:
    source = "PVT's authors (classification/README.md)"
    return Published(name, name, f"{_PVT}/{name}.pth", top1, source, "Apache-2.0")


def _deit(size: str, digits: str, top1: float) -> Published:
    url = f"{_DEIT}/deit_{size}_patch16_224-{digits}.pth"
    source = "DeiT's authors (README)"
    return Published(f"deit_{size}_patch16", f"deit_{size}_patch16", url, top1, source, "Apache-2.0", digits)


def _torchvision(backbone: str, digits: str, top1: float, version: str = "V1") -> Published:
    """V1 are the weights that the papers' dense models start from; V2 are of a later, longer recipe."""
    name = backbone if version == "V1" else f"{backbone}_v2"
    source = f"torchvision, IMAGENET1K_{version}"
    url = f"{_TORCHVISION}/{backbone}-{digits}.pth"
    return Published(name, backbone, url, top1, source, "BSD-3-Clause", digits)


_PUBLISHED = [
    _pvt("pvt_tiny", 75.1),
    _pvt("pvt_small", 79.8),
    _pvt("pvt_medium", 81.2),
    _pvt("pvt_large", 81.7),
    _pvt("pvt_v2_b0", 70.5),
    _pvt("pvt_v2_b1", 78.7),
    _pvt("pvt_v2_b2", 82.0),
    _pvt("pvt_v2_b2_li", 82.1),
    _pvt("pvt_v2_b3", 83.1),
    _pvt("pvt_v2_b4", 83.6),
    _pvt("pvt_v2_b5", 83.8),
    _deit("tiny", "a1311bcf", 72.2),
    _deit("small", "cd65a155", 79.9),
    _deit("base", "b5f2ef4d", 81.8),
    _torchvision("resnet18", "f37072fd", 69.758),
    _torchvision("resnet34", "b627a593", 73.314),
    _torchvision("resnet50", "0676ba61", 76.130),
    _torchvision("resnet50", "11ad3fa6", 80.858, "V2"),
    _torchvision("resnet101", "63fe2227", 77.374),
    _torchvision("resnet101", "cd907fc2", 81.886, "V2"),
    _torchvision("resnet152", "394f9c45", 78.312),
    _torchvision("resnet152", "f82ba261", 82.284, "V2"),
    _torchvision("resnext50_32x4d", "7cdf4587", 77.618),
    _torchvision("resnext50_32x4d", "1a0047aa", 81.198, "V2"),
    _torchvision("resnext101_64x4d", "173b62eb", 83.246),
]


def published() -> list[Published]:
    """All entries, by publisher."""
    return list(_PUBLISHED)


def find_published(name: str) -> Published | None:
    """The entry of this name."""
    return next((entry for entry in _PUBLISHED if entry.name == name), None)


def published_for(backbone: str) -> Published | None:
    """The entry to take for a backbone when nobody says which: the one of the same name."""
    return find_published(backbone)


_PVT_DETECTORS = "https://github.com/whai362/PVT/tree/v2/detection"
_DETECTOR_PAGES = {
    ("resnet50", "retinanet"): f"{_TORCHVISION}/retinanet_resnet50_fpn_coco-eeacb38b.pth",
    ("resnet50", "mask_rcnn"): f"{_TORCHVISION}/maskrcnn_resnet50_fpn_coco-bf2d0c1e.pth",
    ("resnet50", "detr"): "https://dl.fbaipublicfiles.com/detr/detr-r50-e632da11.pth",
    ("resnet101", "detr"): "https://dl.fbaipublicfiles.com/detr/detr-r101-2c7b67e5.pth",
    ("pvt_small", "detr"): "https://github.com/whai362/PVT/tree/v1",
}


def detector_page(backbone: str, head: str) -> str | None:
    """Where somebody offers this detector, trained on COCO, in a layout that `load_weights` reads; None where nobody does.

    A file's address, which `fetch` gets, or a page for a browser: PVT's authors' detectors lie on file hosts without direct
    links.
    """
    by_authors = backbone.startswith("pvt_") and head in ("retinanet", "mask_rcnn")
    return _DETECTOR_PAGES.get((backbone, head)) or (_PVT_DETECTORS if by_authors else None)
