"""`pvtctl visualize attention`."""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pvtctl.cli._options import bundle, examples, option
from pvtctl.cli.predict import ImageReader
from pvtctl.cli.visualize._options import (
    ImageModel,
    Output,
    picture_names,
    say_model,
)
from pvtctl.errors import UsageError

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from torch import Tensor

    from pvtctl.explain.attention import AttendingBlock, AttentionMaps
    from pvtctl.explain.attention_pictures import AttentionPanel
    from pvtctl.explain.backbone import BackbonePredictor
    from pvtctl.tasks.predict import Images

EPILOG = examples(
    "pvtctl visualize attention photo.jpg --weights pvt_small",
    "pvtctl visualize attention photo.jpg --weights pvt_small --block stage3 --head all --query 100,80",
    "pvtctl visualize attention photos/ --weights runs/my-detector --block all --rollout --out maps",
    "pvtctl visualize attention photo.jpg --backbone deit_small_patch16 --query class --format svg",
)

Words = str | tuple[int, int]
"""A query point: a pixel of the image, `middle`, or the name of a token."""


@bundle
class AttentionOptions(ImageModel):
    """Options of `pvtctl visualize attention`."""

    block: list[str] | None = option(
        help="A block (stage1.block2; block7 of a ViT), the last one of a stage (stage3), last, or all: the last one of "
        "each stage, every third of a ViT. Several with commas, or repeated. Default: all."
    )
    head: str = option(default="mean", help="Number of a head, from 1; mean, or all.")
    query: list[str] | None = option(
        metavar="X,Y",
        help="A pixel of the original image, or class: the class token. May be repeated. Default: its middle.",
    )
    rollout: bool = option(
        "--rollout", default=False, help="Attention rollout through the stage's blocks up to this one, with residuals."
    )
    smooth: bool = option("--smooth", default=False, help="Interpolate colours instead of drawing cells.")


def attention_command(*, options: AttentionOptions, output: Output) -> None:
    """Draw what a point of an image attends to: for any block, head and query point.

    For PVT, PVT v2, ViT and DeiT, also inside detectors and segmentation models, and for the context blocks of a GCNet.
    The weights are recomputed from the blocks' inputs; the model itself runs with fused attention.

    With spatial reduction, a key covers a square of positions and is drawn as that square. Darker parts at the right
    and lower edge belong to no key, because the reduction drops incomplete squares.
    """
    queries = [_parse_query(text) for text in options.query or ["middle"]]
    if options.rollout and options.head != "mean":
        raise UsageError("--rollout takes the mean over heads", "leave --head out")
    from pvtctl.engine import single
    from pvtctl.explain.attention import attending_blocks
    from pvtctl.explain.backbone import BackbonePredictor
    from pvtctl.tasks.predict import find_images
    from pvtctl.views.figure import save

    found = find_images(options.images)
    _check_points(queries, found)
    pictures = output.open("attention", Path(options.images[0]).stem, len(found.names))
    use = BackbonePredictor(options.weights, options.backbone, single(options.device).device, size=options.size)
    blocks = _choose(use, [name.strip() for text in options.block or ["all"] for name in text.split(",")])
    for each in blocks:
        _heads(options.head, each)
    say_model(use.what, trained=use.trained, size=use.size_in_words)
    stems = dict(zip(found.names, picture_names(found.names), strict=True))
    reader = ImageReader(found)
    for name, _, pixels in reader.read("visualize"):
        figure, title, facts = _drawn(use, found.folder / name, pixels, blocks, queries, options)
        pictures.add(stems[name], partial(save, figure, dpi=150), title=Path(name).name, caption=title, **facts)
    reader.report()
    names = ", ".join(each.name for each in blocks)
    document = {
        "model": use.what,
        "backbone": use.name,
        "trained": use.trained,
        "rollout": options.rollout,
        "head": options.head,
        "blocks": [each.name for each in blocks],
        "skipped": reader.skipped,
        "all_blocks": [each.name for each in attending_blocks(use.model)],
    }
    what = "Rollout up to" if options.rollout else "Blocks"
    pictures.close(f"Attention of {use.what}", f"{what} {names}.", document)


def _drawn(
    use: BackbonePredictor,
    path: Path,
    pixels: Tensor,
    blocks: Sequence[AttendingBlock],
    queries: Sequence[Words],
    options: AttentionOptions,
) -> tuple[Figure, str, dict[str, Any]]:
    """A picture, its title, and its facts for `--json`."""
    from pvtctl.explain.attention import attention_maps, rollout_maps
    from pvtctl.explain.attention_pictures import draw_attention

    points = [_point(query, (int(pixels.shape[1]), int(pixels.shape[2])), path) for query in queries]
    resized = use.resized(pixels)
    batch = use.batch_of(resized)
    size = (int(resized.shape[1]), int(resized.shape[2]))
    scale = size[1] / pixels.shape[2], size[0] / pixels.shape[1]
    seen = [each if isinstance(each, str) else _scaled(each, scale) for each in points]
    if options.rollout:
        maps = [rollout_maps(use.model, batch, each, seen) for each in blocks]  # type: ignore[arg-type]
    else:
        maps = attention_maps(use.model, batch, blocks, seen)  # type: ignore[arg-type]
    rows: list[tuple[str, list[AttentionPanel]]] = []
    for at, point in enumerate(points):
        what = f"{point} token" if isinstance(point, str) else f"query at {point[0]},{point[1]}"
        place = None if isinstance(point, str) else ((point[0] + 0.5) * scale[0], (point[1] + 0.5) * scale[1])
        panels = [
            _panels(each, at, place, _heads(options.head, block), options)
            for each, block in zip(maps, blocks, strict=True)
        ]
        # all heads: one row per block; one head: the blocks side by side
        rows += [(what, each) for each in panels] if options.head == "all" else [(what, [each[0] for each in panels])]
    image = pixels.permute(1, 2, 0).contiguous().numpy()
    title = (
        f"{'Attention rollout' if options.rollout else 'Attention'} of {use.what} in {path.name} ({size[0]}x{size[1]})"
    )
    facts = {"image": str(path), "size": list(size), "maps": [_facts(each) for each in maps]}
    return draw_attention(image, size, rows, title=title), title, facts


def _panels(
    maps: AttentionMaps,
    at: int,
    point: tuple[float, float] | None,
    heads: Sequence[int | None],
    options: AttentionOptions,
) -> list[AttentionPanel]:
    """Panels of one query and block, one for each of `heads` (None: their mean)."""
    import torch

    from pvtctl.explain.attention_pictures import AttentionPanel

    row = 0 if maps.queries == ("all",) else at
    on = (maps.between_keys() if options.smooth else maps.on_places())[0, :, row]
    special = maps.weights[0, :, row, : len(maps.special)]
    query = maps.queries[row]
    place = query if isinstance(query, tuple) else None
    panels = []
    for head in heads:
        values = on.mean(0) if head is None else on[head]
        beside = special.mean(0) if head is None else special[head]
        keys = maps.weights[0, :, row, len(maps.special) :]
        keys = keys.mean(0) if head is None else keys[head]
        which = "" if maps.heads == 1 else f", mean of {maps.heads} heads" if head is None else f", head {head + 1}"
        note = ""
        # half of a block's output is its input: in a rollout the query itself dominates
        if options.rollout and place is not None and len(keys) > 1:
            own = place[0] * maps.size[1] + place[1]
            note = f"itself {100 * float(keys[own]):.2g} %, else "
            keys = torch.cat((keys[:own], keys[own + 1 :]))
        note += f"max {100 * float(keys.max()):.2g} %, even {100 / maps.weights.shape[-1]:.2g} %"
        note += "".join(
            f", {name} token {100 * float(share):.2g} %" for name, share in zip(maps.special, beside, strict=True)
        )
        title = f"rollout to {maps.block}" if options.rollout else f"{maps.block}{which}"
        panels.append(
            AttentionPanel(
                title,
                note,
                values.numpy(),
                maps.stride,
                place,
                point,
                smooth=options.smooth,
                spare_query=options.rollout,
            )
        )
    return panels


def _facts(maps: AttentionMaps) -> dict[str, Any]:
    """Facts of a block for `--json`: the keys' grid, and the weights."""
    return {
        "block": maps.block,
        "heads": maps.heads,
        "map": list(maps.size),
        "keys": [len(maps.key_rows), len(maps.key_columns)],
        "special_tokens": list(maps.special),
        "queries": [query if isinstance(query, str) else list(query) for query in maps.queries],
        "largest": maps.weights[0].amax(-1).tolist(),
    }


def _choose(use: BackbonePredictor, words: Sequence[str]) -> list[AttendingBlock]:
    from pvtctl.explain.attention import attending_blocks, find_block

    every = attending_blocks(use.model)
    chosen: dict[str, AttendingBlock] = {}
    for word in words:
        if word != "all":
            found = [find_block(use.model, word)]
        elif every[-1].stage > 1:
            found = list({each.stage: each for each in every}.values())
        else:
            found = every[max(len(every) // 4 - 1, 0) :: max(len(every) // 4, 1)]
        chosen |= {each.name: each for each in found}
    return list(chosen.values())


def _heads(text: str, block: AttendingBlock) -> list[int | None]:
    """Heads of a block to draw, from 0; None for their mean. Raises UsageError."""
    if text == "mean":
        return [None]
    if text == "all":
        return list(range(block.heads))
    if text.isdecimal() and 1 <= int(text) <= block.heads:
        return [int(text) - 1]
    what = f"its heads are 1 to {block.heads}" if block.heads > 1 else "it has one head, 1"
    raise UsageError(f"{block.name} has no head {text!r}: {what}", "--head N, mean or all; --block names other blocks")


def _parse_query(text: str) -> Words:
    if text in ("middle", "class", "distillation"):
        return text
    if not re.fullmatch(r"\d+\s*,\s*\d+", text):
        raise UsageError(
            f"--query {text!r} is not a point of an image",
            "write X,Y in pixels, as --query 120,80; or class for the class token",
        )
    x, y = (int(part) for part in text.split(","))
    return x, y


def _check_points(queries: list[Words], found: Images) -> None:
    """Raise UsageError, before anything is drawn, for a pixel outside one of the images."""
    from pvtctl.data.images import AS_SHOWN, BadImage, image_bytes, open_image, size_read

    points = [query for query in queries if not isinstance(query, str)]
    for path in (found.folder / name for name in found.names if points):
        try:
            height, width = size_read(open_image(image_bytes(path)), AS_SHOWN)
        except (BadImage, OSError):  # reported when it is read
            continue
        for point in points:
            _point(point, (height, width), path)


def _point(query: Words, size: tuple[int, int], path: Path) -> Words:
    """A pixel of this (height, width) image, or the name of a token. Raises UsageError for a pixel outside it."""
    height, width = size
    if query == "middle":
        return width // 2, height // 2
    if isinstance(query, tuple) and not (query[0] < width and query[1] < height):
        raise UsageError(
            f"the query point {query[0]},{query[1]} is outside of {path.name}, which is {width} wide and {height} high",
            f"x from 0 to {width - 1}, y from 0 to {height - 1}",
        )
    return query


def _scaled(point: tuple[int, int], scale: tuple[float, float]) -> tuple[int, int]:
    return int((point[0] + 0.5) * scale[0]), int((point[1] + 0.5) * scale[1])
