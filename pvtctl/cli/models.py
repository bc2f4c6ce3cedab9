"""`pvtctl models`: list and describe the backbones."""

from __future__ import annotations

from dataclasses import asdict
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import typer

from pvtctl.cli._console import parse_size, print_json, say, table
from pvtctl.models.variants import STRIDES, TIMM_PREFIX, VARIANTS, PvtVariant, VitVariant, find_variant, known_variant

if TYPE_CHECKING:
    from pvtctl.models.backbones import Classifier

app = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    help="List and describe the backbones.",
)

_FAMILIES = {"pvt_v1": "PVT v1", "pvt_v2": "PVT v2", "vit": "ViT / DeiT", "resnet": "ResNet / ResNeXt"}
_JSON = typer.Option(False, "--json", help="Print one JSON document.")


@app.command(epilog="Example: pvtctl models ls --json")
def ls(json: bool = _JSON) -> None:
    """List the built-in backbones with the parameters of their 1000-class classifiers and their maps' channels."""
    from pvtctl.weights.catalogue import published_for

    found = [
        {
            "name": name,
            "family": variant.family,
            "params": variant.params,
            "channels": list(variant.channels),
            "strides": list(STRIDES),
            "source": variant.source,
            "published": published_for(name) is not None,
        }
        for name, variant in VARIANTS.items()
    ]
    if json:
        print_json({"models": found})
        return
    rows = [
        [
            one["name"],
            _FAMILIES[str(one["family"])],
            _millions(variant.params),
            _numbers(variant.channels),
            _numbers(STRIDES),
            "yes" if one["published"] else "-",
        ]
        for one, variant in zip(found, VARIANTS.values(), strict=True)
    ]
    table("", ["backbone", "family", "params (M)", "channels", "strides", "published weights"], rows)
    say(f"{TIMM_PREFIX}NAME works besides, for any timm model with features; pvtctl models show NAME describes one")


@app.command(epilog="Example: pvtctl models show pvt_small --size 800x1216")
def show(
    name: str = typer.Argument(metavar="NAME", help="A name of `pvtctl models ls`, or timm:NAME."),
    size: str = typer.Option("224", help="Image size for the maps, HEIGHTxWIDTH or one number (32 to 8192)."),
    json: bool = _JSON,
) -> None:
    """Describe a backbone stage by stage: widths, depths, heads, reductions, parameters, and its maps at a size."""
    height, width = parse_size(size)
    if not name.startswith(TIMM_PREFIX):
        find_variant(name)  # an unknown name is told apart before torch is loaded
    described = describe(name, height, width)
    if json:
        print_json(described)
        return
    stages = described["stages"]
    print(f"{name}: {described['source']}")
    print(f"{described['params']:,} parameters with a head of 1000 classes ({described['head_params']:,} in the head)")
    columns = [column for column in stages[0] if column != "map"] + [f"map at {height}x{width}"]
    rows = [
        [_cell(value) for key, value in stage.items() if key != "map"] + [_size_text(stage["map"])] for stage in stages
    ]
    table("", [column.replace("_", " ") for column in columns], rows)
    if described["other_params"]:
        print(f"outside the stages: {described['other_params']:,} parameters ({described['others']})")
    published = described["published"]
    if published:
        print(f"published weights: {published['name']}, top-1 {published['figures']['top1']} % ({published['source']})")
        say(f"pvtctl weights fetch {published['name']}")


def describe(name: str, height: int, width: int) -> dict[str, Any]:
    """What `models show --json` prints: numbers by stage, read off the model itself on the meta device."""
    import torch

    from pvtctl.models.backbones import build_classifier
    from pvtctl.weights.catalogue import published_for

    with torch.device("meta"):
        model = build_classifier(name).eval()
        with torch.inference_mode():
            maps = model.backbone(torch.empty(1, 3, height, width))
    params = _params_by_stage(model)
    head = sum(parameter.numel() for parameter in model.head.parameters())
    total = sum(parameter.numel() for parameter in model.parameters())
    stages = [
        {
            "stage": at + 1,
            "stride": STRIDES[at],
            "channels": model.backbone.feature_channels[at],
            **_stage_settings(name, at),
            **({"params": params[at]} if params else {}),
            "map": list(maps[at].shape[2:]),
        }
        for at in range(4)
    ]
    variant = known_variant(name)
    published = published_for(name)
    return {
        "name": name,
        "family": variant.family if variant else "timm",
        "source": variant.source if variant else "a model of timm",
        "params": total,
        "head_params": head,
        "size": [height, width],
        "stages": stages,
        "other_params": total - head - sum(params) if params else 0,
        "others": _others(name),
        "published": asdict(published) if published else None,
    }


def _stage_settings(name: str, at: int) -> dict[str, Any]:
    """What the variant's table says of stage `at`; a ViT's quarter of the blocks is its stage."""
    variant = known_variant(name)
    match variant:
        case None:
            return {}
        case PvtVariant():
            reduction: int | str = "7x7 pool" if variant.linear_sra else variant.sr_ratios[at]
            return {
                "depth": variant.depths[at],
                "heads": variant.num_heads[at],
                "mlp_ratio": variant.mlp_ratios[at],
                "sr_ratio": reduction,
            }
        case VitVariant(stem="resnet"):
            from pvtctl.models.backbones.vit_hybrid import BLOCKS

            blocks = (0, 0, variant.depth * 3 // 4, variant.depth - variant.depth * 3 // 4)[at]
            return {"depth": blocks + (BLOCKS[at] if at < 3 else 0), "heads": variant.num_heads if blocks else "-"}
        case VitVariant():
            depth = variant.depth * (at + 1) // 4 - variant.depth * at // 4
            return {
                "depth": depth,
                "heads": variant.num_heads,
                "mlp_ratio": variant.mlp_ratio,
                "patch": variant.patch_size,
            }
        case _:
            return {"depth": variant.depths[at], "groups": variant.groups}


def _params_by_stage(model: Classifier) -> list[int]:
    """Parameters of the four stages, by where the model's names put them; none for timm models, whose names vary."""
    from pvtctl.models.backbones import ResNet, TimmBackbone, Vit

    backbone = model.backbone
    if isinstance(backbone, TimmBackbone):
        return []
    if isinstance(backbone, Vit):
        ends = [
            0 if isinstance(tap, str) else tap for tap in backbone.default_taps
        ]  # named: a stage of the hybrid's ResNet
        groups = [[f"blocks.{block}." for block in range(first, after)] for first, after in pairwise([0, *ends])]
        for group, stage in zip(groups, range(3), strict=False) if "R0" in backbone.default_taps else ():
            group.append(f"patch_embed.stages.{stage}.")
    elif isinstance(backbone, ResNet):
        groups = [[f"layer{at}."] for at in (1, 2, 3, 4)]
    else:
        groups = [[f"stages.{at}."] for at in range(4)]
    counts = {parameter_name: parameter.numel() for parameter_name, parameter in backbone.named_parameters()}
    return [sum(n for key, n in counts.items() if key.startswith(tuple(group))) for group in groups]


def _others(name: str) -> str:
    """What a family's classifier has outside its stages and head."""
    variant = known_variant(name)
    match variant.family if variant else None:
        case "pvt_v1":
            return "class token and final norm, for classification only"
        case "vit":
            return "patch embedding, position table, class token, final norm"
        case "resnet":
            return "stem"
        case _:
            return ""


def _millions(params: int | None) -> str:
    return "-" if params is None else f"{params / 1e6:.2f}"


def _numbers(values: tuple[int, ...]) -> str:
    return ", ".join(map(str, values))


def _cell(value: Any) -> str:
    return f"{value:,}" if isinstance(value, int) else str(value)


def _size_text(sides: list[int]) -> str:
    return f"{sides[0]}x{sides[1]}"
