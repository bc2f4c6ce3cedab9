"""Write a model as a folder that transformers' `from_pretrained` reads, and verify it."""

from __future__ import annotations

import copy
import importlib.util
import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from pvtctl.errors import PvtctlError, UsageError
from pvtctl.export.check import difference_of
from pvtctl.export.exportable import raw_model
from pvtctl.export.transformers_models import TransformersModel, transformers_model
from pvtctl.io.files import new_folder
from pvtctl.io.normalization import IMAGENET, Normalization
from pvtctl.models.dense import DenseModel
from pvtctl.weights.read import read_checkpoint
from pvtctl.weights.tensors import same_values


def write_folder(
    model: nn.Module,
    path: Path,
    class_names: Sequence[str] | None,
    normalization: Normalization,
    tolerance: float,
    sides: tuple[int, int] | None = None,
) -> tuple[str, float | None]:
    """Write `config.json`, `model.safetensors` and `preprocessor_config.json`.

    Returns the class of transformers, and the largest difference of its outputs from pvtctl's as a share of the largest output;
    None where transformers is not installed. Raises as `export_layout`.
    """
    if path.exists():
        raise UsageError(f"{path} exists", "name another folder; nothing is ever overwritten")
    if path.suffix in (".safetensors", ".bin", ".pth", ".pt"):
        raise UsageError(f"{path} is a file's name, and transformers reads folders", f"name {path.with_suffix('')}")
    theirs = transformers_model(model, class_names, sides)
    if normalization.order != "rgb":
        raise UsageError("transformers' image processors have no BGR order, which these weights need", "--format onnx")
    pixels = {"image_mean": list(normalization.mean), "image_std": list(normalization.std)}
    with new_folder(path) as folder:
        for name, value in (("config", theirs.config), ("preprocessor_config", theirs.preprocessor | pixels)):
            content = json.dumps(value, indent=2, ensure_ascii=False) + "\n"
            (folder / f"{name}.json").write_text(content, encoding="utf-8")
        tensors = {key: value.contiguous().clone() for key, value in theirs.state.items()}
        save_file(tensors, str(folder / "model.safetensors"), metadata={"format": "pt"})
        difference = _compare(folder, model, theirs, tolerance)
        _check_read_back(folder, model)
    return theirs.name, difference


def _check_read_back(folder: Path, model: nn.Module) -> None:
    """Of the model's tensors all must come back, but for what frozen norms have no use for: how many batches they have seen."""
    back = read_checkpoint(folder).state
    counts = {key for key in model.state_dict() if key.endswith("num_batches_tracked")} - back.keys()
    state = {key: value.detach().cpu() for key, value in model.state_dict().items() if key not in counts}
    if not state.keys() <= back.keys() or not all(same_values(back[key], state[key]) for key in state):
        raise PvtctlError("the folder did not read back as it was written", "nothing was kept; try another disk")


def _compare(folder: Path, model: nn.Module, theirs: TransformersModel, tolerance: float) -> float | None:
    """The largest difference of transformers' outputs from pvtctl's; None where transformers is not installed."""
    if importlib.util.find_spec("transformers") is None:
        return None
    import transformers

    with _no_bars():
        kind = getattr(transformers, theirs.name)
        original, loading = kind.from_pretrained(folder, local_files_only=True, output_loading_info=True)
    if wrong := sorted(map(str, [*loading["missing_keys"], *loading["unexpected_keys"], *loading["mismatched_keys"]])):
        raise PvtctlError(
            f"transformers' {theirs.name} has other parameters than were written ({wrong[0]} and {len(wrong) - 1} more)",
            "nothing was written; transformers 5 is what pvtctl is tested with",
        )
    image = torch.randn(1, 3, theirs.side, theirs.side, generator=torch.Generator().manual_seed(0))
    ours = raw_model(
        copy.deepcopy(model).cpu().eval(),
        pixels="normalized",
        normalization=IMAGENET,
        at_size=isinstance(model, DenseModel),
    )
    with torch.inference_mode():
        pairs = list(zip(_outputs(original.eval()(image), theirs), ours.eager(image), strict=True))
    difference = max(difference_of(there, here)[1] for there, here in pairs)
    if not difference <= tolerance:
        raise PvtctlError(
            f"transformers gives other outputs than ours ({difference:.1e} of the largest, above {tolerance:g})",
            "nothing was written; --tolerance X accepts more",
        )
    return difference


def _outputs(found: Any, theirs: TransformersModel) -> list[Tensor]:
    """Theirs in pvtctl's form: of metric models inverse depth."""
    if theirs.name == "DetrForObjectDetection":
        return [found.logits, found.pred_boxes]
    if not theirs.name.endswith("DepthEstimation"):
        return [found.logits]
    depth = found.predicted_depth[:, None]
    return [1 / depth.clamp(min=theirs.nearest) if theirs.nearest else depth]


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
