"""The table of timm's models in docs/backbones.md: `python tests/benchmarks/timm_table.py docs/backbones.md`.

Every model is built and run as shapes only (on torch's meta device): no weights, some hundred MB of memory, and a few
seconds of processor a model, of the largest too. With names as further arguments only those are tried, and printed.
"""

from __future__ import annotations

import sys
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

import torch

from pvtctl.cost.build import build_model, with_raw_outputs
from pvtctl.errors import UsageError
from pvtctl.io.files import write_text
from pvtctl.io.tables import markdown_table
from pvtctl.models.backbones import TimmBackbone, prepare_backbones
from pvtctl.models.layers.shapes import without_values
from pvtctl.weights.files.pixels import Pixels, for_backbone
from pvtctl.weights.plan import timm_classifiers

MODELS = [
    "swin_tiny_patch4_window7_224",
    "swinv2_tiny_window8_256",
    "convnext_tiny",
    "convnextv2_tiny",
    "vit_small_patch16_dinov3",
    "vit_base_patch16_siglip_224",
    "vit_pe_spatial_tiny_patch16_512",
    "deit3_small_patch16_224",
    "naflexvit_base_patch16_gap",
    "samvit_base_patch16",
    "sam2_hiera_tiny",
    "mvitv2_tiny",
    "xcit_tiny_12_p16_224",
    "twins_svt_small",
    "twins_pcpvt_small",
    "pvt_v2_b0",
    "focalnet_tiny_srf",
    "davit_tiny",
    "nextvit_small",
    "tiny_vit_5m_224",
    "efficientvit_b0",
    "efficientvit_m2",
    "mobilenetv4_conv_small",
    "mobilenetv4_hybrid_medium",
    "mobilenetv5_base",
    "fastvit_t8",
    "repvit_m0_9",
    "mambaout_tiny",
    "edgenext_small",
    "swiftformer_s",
    "starnet_s1",
    "inception_next_tiny",
    "caformer_s18",
    "hrnet_w18",
    "hgnetv2_b0",
    "efficientnet_b0",
    "csatv2",
    "crossvit_tiny_240",
    "vit_tiny_patch16_224",
    "resnet50",
    "regnety_040",
    "vit_small_patch14_dinov2",
    "vit_small_patch14_reg4_dinov2",
    "vit_giant_patch14_dinov2",
    "eva02_tiny_patch14_224",
    "aimv2_large_patch14_224",
    "maxvit_tiny_tf_224",
    "maxvit_rmlp_nano_rw_256",
    "hiera_tiny_224",
    "coatnet_0_224",
    "coatnet_nano_rw_224",
    "levit_128s",
    "efficientformerv2_s0",
    "gcvit_tiny",
    "volo_d1_224",
    "beitv2_base_patch16_224",
    "coat_tiny",
    "nest_tiny",
]
SIZES = ((224, 224), (480, 640), (512, 512))
UNDER = (512, 640)
COLUMNS = ["timm:", "strides", *(f"{high}x{wide}" for high, wide in SIZES), "RetinaNet", "DPT", "classifier", "pixels"]
START, END = "<!-- timm's models -->\n", "<!-- end -->\n"


def row_of(name: str) -> list[str]:
    """A row of the table: what works, and how."""
    with without_values():
        backbone = TimmBackbone(name).eval()
    strides = ", ".join(map(str, sorted(set(backbone.model.reductions))))
    at_sizes = [_tried(lambda size=size: _how(backbone, size)) for size in SIZES]
    heads = [_tried(lambda head=head: _under(backbone, head)) for head in ("retinanet", "dpt")]
    return [name, strides, *at_sizes, *heads, _classifier(name), _pixels(name)]


def _tried(attempt: Callable[[], str]) -> str:
    try:
        return attempt()
    except UsageError as error:
        return f"no: {error.message.partition(': ')[2] or error.message}"


def _how(backbone: TimmBackbone, size: tuple[int, int]) -> str:
    with torch.no_grad():
        backbone.prepare(size)
        images = torch.empty(1, 3, *size, device="meta")
        net, padded = backbone._net_for(images)
        maps = backbone(images)
    expected = [tuple(-(-side // stride) for side in size) for stride in (4, 8, 16, 32)]
    if [tuple(x.shape[2:]) for x in maps] != expected:
        return f"no: maps of {[tuple(x.shape[2:]) for x in maps]}"
    words = ["rebuilt"] if net is not backbone.net else []
    words += [f"padded to {padded[0]}x{padded[1]}"] if padded != size else []
    return ", ".join(words) or "yes"


def _under(backbone: TimmBackbone, head: str) -> str:
    with without_values(), torch.no_grad():
        model = with_raw_outputs(build_model(backbone, head)).eval()
        prepare_backbones(model, UNDER)
        model(torch.empty(1, 3, *UNDER))
    return "tokens" if getattr(getattr(model, "head", None), "taps", ()) else "yes"


def _classifier(name: str) -> str:
    with without_values():
        backbone = TimmBackbone(name, classifier=True)
    if backbone.model.features:
        return "mean of the last map"
    return "timm's" if timm_classifiers(backbone) else "pooled features"


def _pixels(name: str) -> str:
    found = for_backbone(Pixels(), f"timm:{name}").normalization
    return found.in_words


def table(rows: Iterator[list[str]]) -> str:
    return markdown_table(COLUMNS, list(rows), texts=len(COLUMNS))


def main() -> None:
    warnings.simplefilter("ignore")
    page, *names = sys.argv[1:]
    rows: list[list[str]] = []
    for name in names or MODELS:
        rows.append(row_of(name))
        print(" | ".join(rows[-1]), flush=True)
    if names:
        return
    text = Path(page).read_text(encoding="utf-8")
    before, _, rest = text.partition(START)
    after = rest.partition(END)[2]
    new = f"{before}{START}\n{table(iter(rows))}\n{END}{after}"
    write_text(page, new)


if __name__ == "__main__":
    main()
