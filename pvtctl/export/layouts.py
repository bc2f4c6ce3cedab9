"""Export a model's weights in another project's layout: its publisher's, or a directory for transformers."""

from __future__ import annotations

import copy
import importlib.util
import json
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from pvtctl.errors import PvtctlError, UsageError, nearest
from pvtctl.export.check import TOLERANCE
from pvtctl.io.files import new_folder
from pvtctl.io.normalization import IMAGENET, Normalization
from pvtctl.models.backbones import Backbone, Classifier, Pvt, PvtV2
from pvtctl.models.detector import Detector
from pvtctl.models.necks.build import asked_for
from pvtctl.models.variants import STRIDES
from pvtctl.weights.convert import convert_file, unwritable
from pvtctl.weights.identify import identify_head
from pvtctl.weights.layouts.transformers import to_transformers_pvt, to_transformers_pvt_v2
from pvtctl.weights.read import read_checkpoint
from pvtctl.weights.save import save_safetensors

Layout = Literal["official", "transformers"]
LAYOUTS: tuple[Layout, ...] = ("official", "transformers")


@dataclass(frozen=True)
class LayoutReport:
    """Result of `export_layout`: file, model, and comparison with the original."""

    path: Path
    layout: Layout
    model: str
    """Description: `PvtForImageClassification`, `pvt_small`, `retinanet of pvt_small`."""
    compared_with: str | None
    """Implementation whose outputs on one image were compared; None: only the tensors were read back, and are equal."""
    difference: float | None
    """The largest, relative to the largest output."""

    def as_dict(self) -> dict[str, Any]:
        """As JSON data."""
        return asdict(self) | {"path": str(self.path)}


def export_layout(
    model: nn.Module,
    path: Path | str,
    layout: Layout,
    *,
    source: Path | None = None,
    class_names: Sequence[str] | None = None,
    normalization: Normalization = IMAGENET,
    tolerance: float = TOLERANCE,
) -> LayoutReport:
    """Write the weights of `model` in another project's layout and verify them.

    `official`: one file (.pth, .safetensors) in the layout of the model's publisher, read back and bitwise equal: the PVT
    authors' for PVT (which timm also reads for v2), DeiT's, torchvision's; mmdetection's for RetinaNet and Mask R-CNN,
    facebookresearch's for DETR, mmsegmentation's for Semantic FPN and DeepLabV3+.
    `transformers`: a directory (config.json, model.safetensors, preprocessor_config.json) for classifiers of PVT v1 and
    v2, for `transformers.AutoModelForImageClassification.from_pretrained`; if transformers is installed, its logits on
    one image are compared, and may differ by `tolerance` of the largest (its norms have one epsilon, pvtctl's two).

    `source` is the checkpoint that `model` was loaded from, which is converted unchanged; unset: the model's own tensors.

    Raises UsageError for a path that exists, an unknown layout, a model that the layout does not support; PvtctlError
    when the written file does not give the same back.
    """
    path = Path(path)
    match layout:
        case "official":
            return _official(model, path, class_names, source)
        case "transformers":
            return _transformers_folder(model, path, class_names, normalization, tolerance)
        case _:
            raise UsageError(f"no layout {layout!r}", nearest(layout, LAYOUTS))


def _official(model: nn.Module, path: Path, class_names: Sequence[str] | None, source: Path | None) -> LayoutReport:
    if path.exists():
        raise UsageError(f"{path} exists", "name another file; nothing is ever overwritten")
    if not isinstance(getattr(model, "backbone", model), Backbone):
        raise UsageError(f"a {type(model).__name__} is not a pvtctl model", "take one of `pvtctl.create_...`")
    conventions = model.conventions if isinstance(model, Detector) else None
    prefix = "backbone." if isinstance(model, Backbone) else ""
    state = {prefix + key: value for key, value in model.state_dict().items()}
    above = identify_head(state)
    spec = getattr(model, "spec", None) or (above.spec if above is not None else None)
    if spec is not None and (why := unwritable(spec.name, conventions, asked_for(model))) is not None:
        raise UsageError(f"this {why}", "--format onnx or torch exports it; `pvtctl weights convert` writes our layout")
    if source is not None:
        return _converted(source, path)
    with tempfile.TemporaryDirectory() as folder:
        ours = Path(folder) / "model.safetensors"
        known = {"class_names": list(class_names) if class_names else None, "conventions": conventions}
        save_safetensors(ours, state, {key: value for key, value in known.items() if value is not None})
        return _converted(ours, path)


def _converted(source: Path, path: Path) -> LayoutReport:
    done = convert_file(source, path, to="official")
    what = f"{done.head} of {done.backbone}" if done.head else done.backbone
    return LayoutReport(path, "official", what, done.compared_with, done.difference)


def _transformers_folder(
    model: nn.Module,
    path: Path,
    class_names: Sequence[str] | None,
    normalization: Normalization,
    tolerance: float,
) -> LayoutReport:
    if path.exists():
        raise UsageError(f"{path} exists", "name another folder; nothing is ever overwritten")
    if path.suffix in (".safetensors", ".bin", ".pth", ".pt"):
        raise UsageError(f"{path} is a file's name, and transformers reads folders", f"name {path.with_suffix('')}")
    if not isinstance(model, Classifier) or not isinstance(model.backbone, Pvt | PvtV2):
        what = type(getattr(model, "backbone", model)).__name__
        raise UsageError(
            f"the transformers layout is written for classifiers of PVT v1 and v2, and this is a {type(model).__name__} "
            f"over {what}",
            "--format official has words for more models",
        )
    if normalization.order != "rgb":
        raise UsageError(
            "transformers' PvtImageProcessor has no BGR order, which these weights need", "--format official"
        )
    body = model.backbone
    config, size = _config(body, model.num_classes, class_names)
    state = {key: value.detach().cpu() for key, value in model.state_dict().items()}
    named = to_transformers_pvt(state) if isinstance(body, Pvt) else to_transformers_pvt_v2(state)
    with new_folder(path) as folder:
        for name, value in (("config", config), ("preprocessor_config", _preprocessor(size, normalization))):
            content = json.dumps(value, indent=2, ensure_ascii=False) + "\n"
            (folder / f"{name}.json").write_text(content, encoding="utf-8")
        tensors = {key: value.contiguous().clone() for key, value in named.items()}
        save_file(tensors, str(folder / "model.safetensors"), metadata={"format": "pt"})
        difference = _compare_with_transformers(folder, model, size, tolerance)
        back = read_checkpoint(folder).state
        if back.keys() != state.keys() or not all(torch.equal(back[key], state[key]) for key in state):
            raise PvtctlError("the folder did not read back as it was written", "nothing was kept; try another disk")
    compared = None if difference is None else "transformers"
    return LayoutReport(path, "transformers", config["architectures"][0], compared, difference)


def _config(body: Pvt | PvtV2, num_classes: int, class_names: Sequence[str] | None) -> tuple[dict[str, Any], int]:
    """transformers' configuration of a PVT, and the side of its images."""
    first: list[Any] = [stage.blocks[0] for stage in body.stages]  # type: ignore[index]
    linear = any(block.attn.linear for block in first)
    if isinstance(body, PvtV2) and first[0].mlp.dwconv is None:
        raise UsageError(
            "transformers' PvtV2 always has a depthwise convolution in its feed-forward part, and this model has none",
            "--format official writes it",
        )
    overlaps = isinstance(body, PvtV2) and body.stages[0].patch_embed.proj.kernel_size[0] == 7  # type: ignore[union-attr,index]
    if body.feature_strides != STRIDES or isinstance(body, PvtV2) != overlaps:
        raise UsageError(
            "transformers' PVTs have patches of 4, 2, 2 and 2, overlapping in PvtV2 only, and this model has others",
            "--format official writes it",
        )
    names = list(class_names) if class_names else [f"LABEL_{label}" for label in range(num_classes)]
    config: dict[str, Any] = {
        "hidden_sizes": list(body.feature_channels),
        "depths": list(body.depths),
        "num_attention_heads": [block.attn.num_heads for block in first],
        "mlp_ratios": [block.mlp.fc1.out_features // block.mlp.fc1.in_features for block in first],
        "num_encoder_blocks": 4,
        "num_labels": num_classes,
        "strides": [4, 2, 2, 2],
        "hidden_act": "gelu",
        "layer_norm_eps": 1e-6,
        "qkv_bias": True,
        "id2label": {str(label): name for label, name in enumerate(names)},
        "label2id": {name: label for label, name in enumerate(names)},
    }
    own: dict[str, Any]
    ratios = [block.attn.sr.kernel_size[0] if block.attn.reduces else 1 for block in first]
    if linear:
        ratios = [8, 4, 2, 1]
    if isinstance(body, Pvt):
        stage: Any = body.stages[0]
        size = 4 * int(stage.grid[0])
        own = {"model_type": "pvt", "patch_sizes": [4, 2, 2, 2], "sequence_reduction_ratios": ratios}
        return {"architectures": ["PvtForImageClassification"], **own, "image_size": size, **config}, size
    own = {"model_type": "pvt_v2", "patch_sizes": [7, 3, 3, 3], "sr_ratios": ratios, "linear_attention": linear}
    return {"architectures": ["PvtV2ForImageClassification"], **own, "image_size": 224, **config}, 224


def _preprocessor(size: int, normalization: Normalization) -> dict[str, Any]:
    return {
        "image_processor_type": "PvtImageProcessor",
        "do_resize": True,
        "size": {"height": size, "width": size},
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "image_mean": list(normalization.mean),
        "image_std": list(normalization.std),
    }


def _compare_with_transformers(folder: Path, model: Classifier, size: int, tolerance: float) -> float | None:
    """The largest difference of transformers' logits from pvtctl's; None where transformers is not installed."""
    if importlib.util.find_spec("transformers") is None:
        return None
    import transformers

    with _no_bars():
        theirs = transformers.AutoModelForImageClassification.from_pretrained(folder, local_files_only=True).eval()
    image = torch.randn(1, 3, size, size, generator=torch.Generator().manual_seed(0))
    ours = copy.deepcopy(model).cpu().eval()
    with torch.inference_mode():
        expected: Tensor = ours(image)
        difference = float((theirs(image).logits - expected).abs().max() / expected.abs().max())
    if not difference <= tolerance:
        raise PvtctlError(
            f"transformers gives other logits than ours ({difference:.1e} of the largest, above {tolerance:g})",
            "nothing was written; --tolerance X accepts more",
        )
    return difference


@contextmanager
def _no_bars() -> Iterator[None]:
    """Disable the bar that transformers draws for every file that it loads."""
    from transformers.utils import logging

    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    try:
        yield
    finally:
        if shown:
            logging.enable_progress_bar()  # type: ignore[no-untyped-call]
