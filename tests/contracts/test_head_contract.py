"""What every registered head promises, tried under a narrow backbone. A new head is tried as soon as it is registered."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from pydantic import ValidationError
from torch import Tensor

from pvtctl.cost.counting import count
from pvtctl.errors import UsageError
from pvtctl.export.exportable import raw_model
from pvtctl.io.normalization import IMAGENET
from pvtctl.models.dense import DenseModel, build_depth_model, build_segmenter
from pvtctl.models.detector import Detector, build_detector
from pvtctl.models.losses.cross_entropy import cross_entropy
from pvtctl.models.losses.depth import ssi_trimmed
from pvtctl.models.registry import DEPTH, DETECTION, HeadSpec, head_spec, head_specs
from pvtctl.models.structures import Objects
from pvtctl.weights.identify import identify_head

BACKBONE, K, SIDE = "pvt_v2_b0@0.25", 3, 64
NARROW = {"width": 16, "rois_per_image": 16, "embed_dim": 32, "depth": 1, "num_heads": 2}
CASES = [(spec, task) for spec in head_specs() for task in spec.tasks]


def build(spec: HeadSpec, task: str) -> Detector | DenseModel:
    options = {key: value for key, value in NARROW.items() if key in spec.option_names(task)}
    torch.manual_seed(0)
    if task == DETECTION:
        return build_detector(BACKBONE, spec.name, num_classes=K, **options)
    if task == DEPTH:
        return build_depth_model(BACKBONE, spec.name, head_options=options)
    return build_segmenter(BACKBONE, spec.name, num_classes=K, head_options=options)


def images(batch: int, height: int = SIDE, width: int = SIDE) -> Tensor:
    return torch.randn(batch, 3, height, width, generator=torch.Generator().manual_seed(1))


def targets() -> list[Objects]:
    """An image of two objects and one of none."""
    boxes = torch.tensor([[4.0, 4.0, 40.0, 36.0], [20.0, 10.0, 60.0, 60.0]])
    masks = torch.zeros(2, SIDE, SIDE, dtype=torch.bool)
    masks[0, 4:36, 4:40] = masks[1, 10:60, 20:60] = True
    nothing = Objects(
        torch.zeros(0, 4), torch.zeros(0, dtype=torch.int64), torch.zeros(0, SIDE, SIDE, dtype=torch.bool)
    )
    return [Objects(boxes, torch.tensor([0, 2]), masks), nothing]


def loss_of(model: Detector | DenseModel) -> Tensor:
    if isinstance(model, Detector):
        loss: Tensor = model(images(2), None, targets())["loss"]
        return loss
    out, others = model(images(2), True)
    maps = [model.at_size(each, (SIDE, SIDE)) for each in (out, *others)]
    if model.task == DEPTH:
        inverse = torch.rand(2, SIDE, SIDE, generator=torch.Generator().manual_seed(2))
        return torch.stack([ssi_trimmed(each[:, 0], inverse, inverse > 0.01) for each in maps]).sum()
    labels = torch.randint(0, K, (2, SIDE, SIDE), dtype=torch.uint8, generator=torch.Generator().manual_seed(2))
    return torch.stack([cross_entropy(each, labels) for each in maps]).sum()


@pytest.mark.parametrize(("spec", "task"), CASES, ids=[f"{spec.name}-{task}" for spec, task in CASES])
class TestHead:
    def test_one_step_of_training_is_finite(self, spec: HeadSpec, task: str) -> None:
        model = build(spec, task).train()
        loss = loss_of(model)
        assert loss.isfinite()
        loss.backward()  # type: ignore[no-untyped-call]
        gradients = [parameter.grad for parameter in model.head.parameters() if parameter.grad is not None]
        assert gradients
        assert all(each.isfinite().all() for each in gradients)

    def test_images_of_any_size_are_answered(self, spec: HeadSpec, task: str) -> None:
        model = build(spec, task).eval()
        with torch.inference_mode():
            out = model(images(1, 65, 97))
        if isinstance(model, Detector):
            assert len(out) == 1
            assert out[0].boxes.shape == (len(out[0]), 4)
            assert (out[0].masks is not None) == spec.needs_masks
        else:
            assert model.at_size(out, (65, 97)).shape == (1, 1 if task == DEPTH else K, 65, 97)

    def test_images_of_a_batch_do_not_see_each_other(self, spec: HeadSpec, task: str) -> None:
        model, batch = build(spec, task).eval(), images(2)
        with torch.inference_mode():
            if isinstance(model, DenseModel):
                pairs = [(model(batch), [model(one) for one in batch.split(1)], 0)]
            else:
                together, *apart = (
                    model.head.raw_outputs(model.features(each), [(SIDE, SIDE)] * len(each), (SIDE, SIDE))
                    for each in (batch, *batch.split(1))
                )
                # DETR's layers come before its images; the second stage of Mask R-CNN looks at regions
                pairs = [
                    (whole, [parts[at] for parts in apart], list(whole.shape).index(2))
                    for at, whole in enumerate(together)
                    if 2 in whole.shape[:2]
                ]
        assert pairs
        for whole, parts, dim in pairs:
            torch.testing.assert_close(whole, torch.cat(parts, dim), rtol=1e-4, atol=1e-4)

    def test_options_are_its_own(self, spec: HeadSpec, task: str) -> None:
        assert spec.options({"nonsense": None}).name == spec.name
        with pytest.raises(UsageError, match=f"{spec.name} has no nonsense"):
            spec.options({"nonsense": 1})
        with pytest.raises(ValidationError):
            spec.Options.model_validate({"name": spec.name, "nonsense": 1})
        options: dict[str, Any] = spec.options().model_dump(mode="json")
        assert spec.Options.model_validate(options) == spec.options()

    def test_its_checkpoint_tells_what_to_build(self, spec: HeadSpec, task: str) -> None:
        model = build(spec, task)
        found = identify_head(model.state_dict())
        assert found is not None
        assert (found.head, found.task, found.num_classes) == (spec.name, task, 1 if task == DEPTH else K)
        assert BACKBONE in found.backbones
        told = spec.options(found.options)
        own = spec.options({key: value for key, value in NARROW.items() if key in spec.option_names(task)})
        assert {key: value for key, value in told.said().items() if key in ("width", "num_queries", "embed_dim")} == {
            key: value for key, value in own.said().items() if key in ("width", "num_queries", "embed_dim")
        }
        assert found.tables.keys() <= model.state_dict().keys() | {
            f"head.auxiliary.2.{each}" for each in ("weight", "bias")
        }

    def test_it_is_counted_part_by_part(self, spec: HeadSpec, task: str) -> None:
        classes = None if task == DEPTH else K
        cost = count(BACKBONE, (SIDE, SIDE), head=spec.name, num_classes=classes)
        assert cost.num_classes == classes
        assert sum(stage.macs for stage in cost.stages) == cost.macs > 0
        parts = {stage.name.removeprefix("head.") for stage in cost.stages if stage.name.startswith("head.")}
        assert parts & set(spec.parts.values())

    def test_what_is_said_of_its_export_is_so(self, spec: HeadSpec, task: str) -> None:
        model = build(spec, task).eval()
        if spec.unexportable is not None:
            with pytest.raises(UsageError, match=f"{spec.title} cannot be exported"):
                raw_model(model, pixels="normalized", normalization=IMAGENET)
            return
        raw = raw_model(model, pixels="normalized", normalization=IMAGENET).eval()
        eager = raw.eager(images(2))
        with torch.inference_mode():
            traced = raw(images(2))
        assert len(raw.names) == len(eager) == len(traced)
        for one, other in zip(traced, eager, strict=True):
            torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-4)


def test_specs_agree_with_each_other() -> None:
    names = [spec.name for spec in head_specs()]
    assert len(names) == len(set(names))
    for spec in head_specs():
        assert head_spec(spec.name) is spec
        assert {mark.task for mark in spec.marks} == set(spec.tasks)
        assert set(spec.recipes) == set(spec.tasks)
        assert {*spec.only_for, *spec.token_options} <= set(spec.option_names())
