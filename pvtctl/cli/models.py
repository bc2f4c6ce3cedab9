"""`pvtctl models`: list and describe the backbones."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import typer

from pvtctl.cli._console import parse_size, print_json, print_text, table
from pvtctl.cli._models import size_text
from pvtctl.cli._options import AS_JSON, App, examples
from pvtctl.io.console import say
from pvtctl.models.backbone_names import TIMM_PREFIX, value_text
from pvtctl.models.registry import backbone_spec, backbone_specs
from pvtctl.models.variants import STRIDES

if TYPE_CHECKING:
    from pvtctl.models.backbones import Backbone

app = App(
    no_args_is_help=True,
    help="List and describe the backbones.",
)


@app.command("ls", epilog="Example: pvtctl models ls --json")
def models_ls(as_json: bool = AS_JSON) -> None:
    """List the built-in backbones with the channels of their maps and the parameters as 1000-class classifiers."""
    from pvtctl.weights.catalogue import published_for

    found = [
        {
            "name": spec.name,
            "family": spec.family,
            "params": spec.params,
            "channels": list(spec.channels or ()),
            "strides": list(STRIDES),
            "source": spec.source,
            "published": published_for(spec.name) is not None,
        }
        for spec in backbone_specs()
    ]
    if as_json:
        print_json({"models": found})
        return
    rows = []
    for one, spec in zip(found, backbone_specs(), strict=True):
        millions = "-" if spec.params is None else f"{spec.params / 1e6:.2f}"
        channels, strides = (", ".join(map(str, numbers)) for numbers in (spec.channels or (), STRIDES))
        published = "yes" if one["published"] else "-"
        rows.append([spec.name, spec.family_title or spec.family, millions, channels, strides, published])
    table("", ["backbone", "family", "params (M)", "channels", "strides", "published weights"], rows)
    say(f"{TIMM_PREFIX}NAME also works, for any timm model with features; pvtctl models show NAME describes one")


@app.command(
    "show",
    epilog=examples(
        "pvtctl models show pvt_small --size 800x1216", "pvtctl models show pvt_small@0.5+sr_ratios=4,2,1,1"
    ),
)
def models_show(
    name: str = typer.Argument(metavar="NAME", help="A name of `pvtctl models ls`, or timm:NAME."),
    size: str = typer.Option("224", help="Image size for the maps, HEIGHTxWIDTH or one number (32 to 8192)."),
    as_json: bool = AS_JSON,
) -> None:
    """Describe a backbone stage by stage: widths, depths, heads, reductions, parameters, and its maps at a size."""
    height, width = parse_size(size)
    name = backbone_spec(name).name  # reject an unknown one before torch is loaded
    described = describe(name, height, width)
    if as_json:
        print_json(described)
        return
    stages = described["stages"]
    print_text(f"{name}: {described['source']}")
    print_text(
        f"{described['params']:,} parameters with a head of 1000 classes ({described['head_params']:,} in the head)"
    )
    at_size = [key for key in ("map", "keys") if key in stages[0]]
    columns = [column.replace("_", " ") for column in stages[0] if column not in at_size]
    rows = []
    for stage in stages:
        values = [value for key, value in stage.items() if key not in at_size]
        cells = [f"{value:,}" if isinstance(value, int) else str(value) for value in values]
        rows.append([*cells, *(size_text(stage[key]) for key in at_size)])
    table("", [*columns, *(f"{key} at {height}x{width}" for key in at_size)], rows)
    if described["options"]:
        changed = described["changed"]
        options = [
            f"{key}={value_text(value)}{' (changed)' * (key in changed)}" for key, value in described["options"].items()
        ]
        print_text(f"options: {'; '.join(options)}")
        plain = name.partition("+")[0]
        say(f"{plain}+OPTION=VALUE sets one wherever a backbone is named, model.backbone.options in a recipe")
    if described["other_params"]:
        print_text(f"outside the stages: {described['other_params']:,} parameters ({described['others']})")
    for remark in described["remarks"]:
        print_text(remark)
    published = described["published"]
    if published:
        print_text(
            f"published weights: {published['name']}, top-1 {published['figures']['top1']} % ({published['source']})"
        )
        say(f"pvtctl weights fetch {published['name']}")


def describe(name: str, height: int, width: int) -> dict[str, Any]:
    """The output of `models show --json`: numbers by stage, from the model on the meta device."""
    import torch

    from pvtctl.models.backbones import build_classifier, prepare_backbones
    from pvtctl.models.layers.shapes import without_values
    from pvtctl.weights.catalogue import published_for

    with without_values():
        model = build_classifier(name).eval()
        with torch.inference_mode():
            remarks = prepare_backbones(model, (height, width))
            maps = model.backbone(torch.empty(1, 3, height, width))
    spec = backbone_spec(name)
    counts = {key: parameter.numel() for key, parameter in model.backbone.named_parameters()}
    params = [sum(n for key, n in counts.items() if key.startswith(group)) for group in spec.stage_names]
    keys = _keys(model.backbone, [(int(x.shape[2]), int(x.shape[3])) for x in maps])
    head = sum(parameter.numel() for parameter in model.head.parameters())
    total = sum(parameter.numel() for parameter in model.parameters())
    stages = [
        {
            "stage": at + 1,
            "stride": model.backbone.feature_strides[at],
            "channels": model.backbone.feature_channels[at],
            **(spec.stages[at] if spec.stages else {}),
            **({"params": params[at]} if params else {}),
            "map": list(maps[at].shape[2:]),
            **({"keys": keys[at]} if keys else {}),
        }
        for at in range(4)
    ]
    published = published_for(name)
    return {
        "name": name,
        "family": spec.family,
        "source": spec.source,
        "params": total,
        "head_params": head,
        "size": [height, width],
        "options": spec.stated_options,
        "changed": dict(spec.chosen),
        "stages": stages,
        "other_params": total - head - sum(params) if params else 0,
        "others": spec.outside,
        "remarks": remarks,
        "published": asdict(published) if published else None,
    }


def _keys(backbone: Backbone, sizes: list[tuple[int, int]]) -> list[list[int]]:
    """Rows and columns of each stage's keys on maps of `sizes`; empty but for PVTs."""
    from pvtctl.models.backbones.pvt import PyramidTransformer

    if not isinstance(backbone, PyramidTransformer):
        return []
    layers: list[Any] = [stage.blocks[0].attn for stage in backbone.stages]  # type: ignore[union-attr,index]
    spans = [layer.key_spans(size) for layer, size in zip(layers, sizes, strict=True)]
    return [[len(rows), len(columns)] for rows, columns in spans]
