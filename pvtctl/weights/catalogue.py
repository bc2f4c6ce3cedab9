"""Published checkpoints of other projects: address, source, licence, figures, fetched files. Loads without torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from pvtctl.io.files import user_folder
from pvtctl.io.normalization import HALF, IMAGENET, Normalization

_PVT = "https://github.com/whai362/PVT/releases/download/v2"
_DEIT = "https://dl.fbaipublicfiles.com/deit"
_TORCHVISION = "https://download.pytorch.org/models"
_TIMM = "https://github.com/rwightman/pytorch-image-models/releases/download/v0.1-vitjx"
_DPT = "https://github.com/intel-isl/DPT/releases/download/1_0"


@dataclass(frozen=True)
class Published:
    """One published checkpoint: an ImageNet-1K classifier, or a segmentation or depth model."""

    name: str
    """Name for `--weights` and `pvtctl weights fetch`."""
    backbone: str
    url: str
    figures: Mapping[str, float]
    """Published metrics: `top1`, `miou` and `pixel_acc` in percent, depth deltas as fractions."""
    source: str
    """The publisher, and where the figures are printed."""
    license: str
    sha256: str | None = None
    """The first hex digits of the file's SHA-256, where the publisher gives them."""
    head: str | None = None
    """Of a segmentation or depth model; None for classifiers."""
    data: str = "ImageNet-1K"
    """Data of the last training, and of the evaluation unless a figure's name says otherwise."""
    scale_shift: tuple[float, float] | None = None
    """Of a metric depth model: metres = 1 / (a x + b). Not in the file."""
    normalization: Normalization = IMAGENET
    """Of the pixels in training."""

    @property
    def scores(self) -> str:
        """The first two figures: `top1 79.8`, `miou 49.02, pixel_acc 83.11`."""
        return ", ".join(f"{name} {value:g}" for name, value in list(self.figures.items())[:2])

    @property
    def file_name(self) -> str:
        return self.url.rsplit("/", 1)[-1]

    @property
    def get_again(self) -> str:
        """The hint for a damaged file of it."""
        return f"get it again: pvtctl weights fetch {self.name} --again"


def _pvt(name: str, top1: float) -> Published:
    source = "PVT's authors (classification/README.md)"
    return Published(name, name, f"{_PVT}/{name}.pth", {"top1": top1}, source, "Apache-2.0")


def _deit(kind: str, digits: str, top1: float) -> Published:
    name, url = f"deit_{kind}_patch16", f"{_DEIT}/deit_{kind}_patch16_224-{digits}.pth"
    return Published(name, name, url, {"top1": top1}, "DeiT's authors (README)", "Apache-2.0", digits)


def _timm(name: str, backbone: str, file: str, digits: str, top1: float) -> Published:
    """Google's ViT of ImageNet-21K, fine-tuned at 384 pixels (mean and std 0.5): DPT's initial weights."""
    source, url = "timm, from Google's (model-index)", f"{_TIMM}/{file}-{digits}.pth"
    data = "ImageNet-1K at 384"
    return Published(name, backbone, url, {"top1": top1}, source, "Apache-2.0", digits, data=data, normalization=HALF)


def _torchvision(backbone: str, digits: str, top1: float, version: str = "V1") -> Published:
    """V1: the initial weights of the papers' dense models; V2: of a later, longer recipe."""
    name = backbone if version == "V1" else f"{backbone}_v2"
    source = f"torchvision, IMAGENET1K_{version}"
    url = f"{_TORCHVISION}/{backbone}-{digits}.pth"
    return Published(name, backbone, url, {"top1": top1}, source, "BSD-3-Clause", digits)


def _dpt(
    file: str,
    digits: str,
    data: str,
    figures: Mapping[str, float],
    where: str,
    scale_shift: tuple[float, float] | None = None,
) -> Published:
    name = file.replace("-", "_")
    backbone = "vit_large_patch16" if "large" in file else "vit_hybrid"
    source, url = f"DPT's authors ({where})", f"{_DPT}/{file}-{digits}.pt"
    return Published(name, backbone, url, figures, source, "MIT", digits, "dpt", data, scale_shift, HALF)


def _zero_shot(*values: float) -> dict[str, float]:
    """Figures on data not trained on: WHDR in percent, AbsRel, and percent of pixels beyond delta 1.25."""
    names = ("diw_whdr", "eth3d_abs_rel", "sintel_abs_rel", "kitti_beyond", "nyu_beyond", "tum_beyond")
    return dict(zip(names, values, strict=True))


def _absolute(*values: float) -> dict[str, float]:
    names = ("delta1", "delta2", "delta3", "abs_rel", "sq_rel", "rmse", "rmse_log", "silog", "log10")
    return dict(zip(names, values, strict=True))


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
    _deit("base_distilled", "df68dfff", 83.4),
    _timm("vit_base_patch16_384", "vit_base_patch16", "jx_vit_base_p16_384", "83fb41ba", 84.2),
    _timm("vit_large_patch16_384", "vit_large_patch16", "jx_vit_large_p16_384", "b3be5167", 85.17),
    _timm("vit_hybrid_384", "vit_hybrid", "jx_vit_base_resnet50_384", "9fd3c705", 84.99),
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
    _dpt("dpt_large-midas", "2f21e586", "MIX 6", _zero_shot(10.82, 0.089, 0.270, 8.46, 8.32, 9.97), "DPT, Table 1"),
    _dpt("dpt_hybrid-midas", "501f0c75", "MIX 6", _zero_shot(11.06, 0.093, 0.274, 11.56, 8.69, 10.89), "DPT, Table 1"),
    _dpt(
        "dpt_hybrid_kitti",
        "cb926ef4",
        "KITTI, Eigen split",
        _absolute(0.959, 0.995, 0.999, 0.062, 0.222, 2.575, 0.092, 8.282, 0.027),
        "EVALUATION.md",
        (6.016e-5, 0.00579),
    ),
    _dpt(
        "dpt_hybrid_nyu",
        "2ce69ec7",
        "NYUv2",
        _absolute(0.904, 0.988, 0.998, 0.109, 0.054, 0.357, 0.129, 9.521, 0.045),
        "EVALUATION.md",
        (3.05e-4, 0.1378),
    ),
    _dpt("dpt_large-ade20k", "b12dca68", "ADE20K", {"miou": 47.63, "pixel_acc": 82.70}, "DPT, Table 4"),
    _dpt("dpt_hybrid-ade20k", "53898607", "ADE20K", {"miou": 49.02, "pixel_acc": 83.11}, "DPT, Table 4"),
]


def published() -> list[Published]:
    """All entries, by publisher."""
    return list(_PUBLISHED)


def find_published(name: str) -> Published | None:
    """The entry of this name, or None."""
    return next((entry for entry in _PUBLISHED if entry.name == name), None)


def published_with_hash(sha256: str) -> Published | None:
    """The entry whose publisher's digits begin this SHA-256, or None."""
    return next((entry for entry in _PUBLISHED if entry.sha256 and sha256.startswith(entry.sha256)), None)


def published_for(backbone: str) -> Published | None:
    """The default classifier of a backbone: the entry of the same name, else the first one."""
    of_backbone = (entry for entry in _PUBLISHED if entry.backbone == backbone and entry.head is None)
    same = find_published(backbone)
    return same if same is not None and same.head is None else next(of_backbone, None)


def published_model(backbone: str, head: str | None, data_name: str) -> Published | None:
    """The segmentation or depth model that was trained on the data of this name."""
    size = {"vit_large_patch16": "large", "vit_hybrid": "hybrid"}.get(backbone)
    return find_published(f"dpt_{size}_{'midas' if data_name == 'mix' else data_name}") if head == "dpt" else None


_PVT_DETECTORS = "https://github.com/whai362/PVT/tree/v2/detection"
_DETECTOR_PAGES = {
    ("resnet50", "retinanet"): f"{_TORCHVISION}/retinanet_resnet50_fpn_coco-eeacb38b.pth",
    ("resnet50", "mask_rcnn"): f"{_TORCHVISION}/maskrcnn_resnet50_fpn_coco-bf2d0c1e.pth",
    ("resnet50", "detr"): "https://dl.fbaipublicfiles.com/detr/detr-r50-e632da11.pth",
    ("resnet101", "detr"): "https://dl.fbaipublicfiles.com/detr/detr-r101-2c7b67e5.pth",
    ("pvt_small", "detr"): "https://github.com/whai362/PVT/tree/v1",
}


def detector_page(backbone: str, head: str) -> str | None:
    """Where this detector, trained on COCO, is published in a layout that `load_weights` reads, or None.

    Either a file's address, which `fetch` downloads, or a web page: the PVT authors' detectors are on file hosts without
    direct links.
    """
    by_authors = backbone.startswith("pvt_") and head in ("retinanet", "mask_rcnn")
    return _DETECTOR_PAGES.get((backbone, head)) or (_PVT_DETECTORS if by_authors else None)


def cache_folder() -> Path:
    """Where fetched checkpoints are: `weights` in pvtctl's cache folder (`pvtctl.io.files.user_folder`)."""
    return user_folder("cache") / "weights"


def cached_file(entry: Published) -> Path | None:
    """The fetched file of an entry, or None."""
    path = cache_folder() / entry.file_name
    return path if path.is_file() else None
