"""The pixels that weights were trained with, from every file that may say so."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from pvtctl.errors import UsageError
from pvtctl.io.normalization import HALF, IMAGENET, NORMALIZATIONS, Normalization
from pvtctl.models.backbones import build_backbone
from pvtctl.weights import catalogue
from pvtctl.weights.convert import convert_file
from pvtctl.weights.describe import inspect_checkpoint
from pvtctl.weights.files.pixels import Pixels, for_backbone
from pvtctl.weights.inspect import inspect_file
from pvtctl.weights.read import read_checkpoint
from pvtctl.weights.save import save_safetensors

CLIP, UNIT = NORMALIZATIONS["clip"], NORMALIZATIONS["unit"]
THREE = {"image_mean": [0.1, 0.2, 0.3], "image_std": [0.4, 0.5, 0.6]}
OWN = Normalization((0.1, 0.2, 0.3), (0.4, 0.5, 0.6))


@pytest.fixture(scope="module")
def state() -> dict[str, torch.Tensor]:
    """A narrow ResNet under torchvision's names, without its classifier."""
    return dict(build_backbone("resnet18@0.125").state_dict())


def folder_with(folder: Path, state: dict[str, torch.Tensor], **files: Any) -> Path:
    save_file(state, folder / "model.safetensors")
    for name, content in files.items():
        (folder / f"{name}.json").write_text(json.dumps(content), encoding="utf-8")
    return folder


@pytest.mark.parametrize(
    ("said", "how"),
    [
        (THREE, OWN),
        ({"image_mean": 0.5, "image_std": 0.5, "rescale_factor": 1 / 255}, HALF),
        ({**THREE, "do_normalize": False}, UNIT),
        ({"do_normalize": False, "do_rescale": False}, Normalization.of_range((0,) * 3, (1,) * 3, (0, 255))),
        ({"image_mean": [103.53] * 3, "image_std": [57.1] * 3, "do_rescale": False},
         Normalization.of_range((103.53,) * 3, (57.1,) * 3, (0, 255))),
        ({"do_normalize": False, "rescale_factor": 1 / 127.5, "rescale_offset": True}, HALF),
        ({**THREE, "do_flip_channel_order": True}, OWN._replace(order="bgr")),
    ],
)  # fmt: skip
def test_transformers_preprocessor(tmp_path: Path, state: Any, said: dict[str, Any], how: Normalization) -> None:
    folder = folder_with(tmp_path, state, config={"model_type": "resnet"}, preprocessor_config=said)
    for path in (folder, folder / "model.safetensors"):
        found = read_checkpoint(path).pixels
        assert found.source == "preprocessor_config.json"
        assert found.normalization.order == how.order
        assert found.normalization.mean == pytest.approx(how.mean)
        assert found.normalization.std == pytest.approx(how.std)
    assert inspect_checkpoint(folder).pixels == found
    inspected = json.loads(json.dumps(inspect_file(folder).as_dict()))["normalization"]
    assert (inspected["mean"], inspected["source"]) == (list(found.normalization.mean), "preprocessor_config.json")


@pytest.mark.parametrize("nested", [True, False])
def test_timms_configuration(tmp_path: Path, state: Any, nested: bool) -> None:
    said = {"mean": list(CLIP.mean), "std": list(CLIP.std), "input_size": [3, 64, 64]}
    config = {"architecture": "resnet18", **({"pretrained_cfg": said} if nested else said)}
    assert read_checkpoint(folder_with(tmp_path, state, config=config)).pixels == Pixels(CLIP, "timm's config.json")


@pytest.mark.parametrize(
    ("config", "how"),
    [
        (
            "img_norm_cfg = dict(\n    mean=[103.530, 116.280, 123.675], std=[1.0, 1.0, 1.0], to_rgb=False)",
            NORMALIZATIONS["caffe"],
        ),
        (
            "data_preprocessor=dict(type='D', mean=[127.5, 127.5, 127.5], std=[127.5, 127.5, 127.5], bgr_to_rgb=True)",
            HALF,
        ),
        ("norm=dict(mean=[1, 2], std=[1, 2], to_rgb=True)", IMAGENET),
        ("norm=dict(mean=[1, 2, 3], std=[0, 0, 0], to_rgb=True)", IMAGENET),
    ],
)
def test_mmdetections_configuration(tmp_path: Path, state: Any, config: str, how: Normalization) -> None:
    torch.save({"meta": {"config": config}, "state_dict": state}, tmp_path / "a.pth")
    assert read_checkpoint(tmp_path / "a.pth").pixels.normalization == how


def test_a_file_elsewhere_takes_nothing_from_its_neighbours(tmp_path: Path, state: Any) -> None:
    folder_with(tmp_path, state, config={"model_type": "resnet"}, preprocessor_config=THREE)
    save_file(state, tmp_path / "other.safetensors")
    assert read_checkpoint(tmp_path / "other.safetensors").pixels == Pixels(IMAGENET, "as all of torchvision ResNet")


def test_what_is_known_is_kept_by_convert_and_what_is_assumed_is_not_written(tmp_path: Path, state: Any) -> None:
    folder = folder_with(tmp_path, state, config={"model_type": "resnet"}, preprocessor_config=THREE)
    convert_file(folder, tmp_path / "ours.safetensors")
    assert read_checkpoint(tmp_path / "ours.safetensors").pixels == Pixels(OWN, "its metadata")
    vit = {key.replace("class_token", "cls_token"): value for key, value in build_backbone("deit_tiny_patch16").state_dict().items()}  # fmt: skip
    save_safetensors(tmp_path / "vit.safetensors", vit, {})
    convert_file(tmp_path / "vit.safetensors", tmp_path / "again.safetensors")
    for name in ("vit", "again"):
        found = read_checkpoint(tmp_path / f"{name}.safetensors")
        assert found.pixels == Pixels(IMAGENET, None)
        assert "mean" not in found.meta.as_json()


def test_a_fetched_file_has_the_pixels_of_the_catalogue(
    tmp_path: Path, state: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pvtctl.weights.read.cache_folder", lambda: tmp_path)
    entry = catalogue.find_published("vit_large_patch16_384")
    assert entry is not None
    torch.save(state, tmp_path / entry.file_name)
    assert read_checkpoint(tmp_path / entry.file_name).pixels == Pixels(HALF, "its publisher's code")


def test_timms_names_say_it_where_the_file_does_not() -> None:
    pytest.importorskip("timm")
    name = "vit_tiny_patch16_224"
    assert for_backbone(Pixels(), f"timm:{name}") == Pixels(HALF, f"timm's configuration of {name}")
    known = Pixels(CLIP, "its metadata")
    assert for_backbone(known, f"timm:{name}") == known
    assert for_backbone(Pixels(), "vit_base_patch16") == for_backbone(Pixels(), "timm:no_such_model") == Pixels()


@pytest.mark.parametrize(
    ("file", "said", "why"),
    [
        ("preprocessor_config", {"image_mean": [0.5], "image_std": [0.5]}, "1 means and 1 deviations"),
        ("preprocessor_config", {"image_mean": "x", "image_std": [1, 1, 1]}, "is x, not three numbers"),
        ("preprocessor_config", {"image_mean": [0, 0, 0], "image_std": [0, 1, 1]}, "each must be above 0"),
        ("preprocessor_config", {**THREE, "rescale_factor": "1/255"}, "rescale_factor is '1/255'"),
        ("preprocessor_config", {**THREE, "rescale_factor": 0}, "no black and white"),
        ("preprocessor_config", [], "preprocessor_config.json"),
        ("config", {"architecture": "x", "mean": [1e300] * 3, "std": [1, 1, 1]}, "a mean of"),
    ],
)
def test_a_damaged_file_beside_the_weights_is_named(tmp_path: Path, state: Any, file: str, said: Any, why: str) -> None:
    folder = folder_with(tmp_path, state, **{"config": {}, file: said})
    with pytest.raises(UsageError, match=why) as refused:
        read_checkpoint(folder)
    assert f"{file}.json" in refused.value.message
