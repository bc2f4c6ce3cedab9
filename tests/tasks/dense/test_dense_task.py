"""Segmentation and depth as the engine uses them: losses, classes matched by name, answers, what is kept and saved."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from pvtctl.data.scenes.scene import SEMANTIC_CLASSES
from pvtctl.engine.protocol import Task
from pvtctl.errors import UsageError
from pvtctl.io.normalization import IMAGENET
from pvtctl.models.fast_cpu.packed import packed_weights
from pvtctl.models.losses.depth import gradient_matching, silog, ssi_trimmed
from pvtctl.models.structures import IGNORE_LABEL
from pvtctl.recipe.load import load_recipe
from pvtctl.tasks.base import PredictionRequest, PredictOptions
from pvtctl.tasks.dense.data import DenseBatch
from pvtctl.tasks.dense.inference import FARTHEST, to_metres
from pvtctl.tasks.dense.task import NUM_SAMPLES
from pvtctl.tasks.depth.files import DepthCoding, decode_depth
from pvtctl.tasks.depth.task import DepthTask
from pvtctl.tasks.from_recipe import build_task
from pvtctl.tasks.segmentation.task import SegmentationTask
from pvtctl.weights.describe import HeadClasses, inspect_checkpoint
from pvtctl.weights.save import save_safetensors

K = len(SEMANTIC_CLASSES)
DPT = "model.head={name: dpt, width: 16}"
NARROW = "pvt_v2_b0, width: 0.25"


def segmentation(*overrides: str, head: HeadClasses | None = None, backbone: str = NARROW) -> SegmentationTask:
    narrow = [] if any(each.startswith("model.head=") for each in overrides) else ["model.head.width=32"]
    own = [f"model.backbone={{name: {backbone}}}", *narrow, *overrides]
    recipe = load_recipe("ade20k_semantic_fpn", "pvt_v2_b0", "smoke", own)
    task = build_task(recipe, device="cpu", head=head, say=lambda text: None)
    assert isinstance(task, SegmentationTask)
    return task


def depth(*overrides: str, head: HeadClasses | None = None) -> DepthTask:
    own = [f"model.backbone={{name: {NARROW}}}", "model.head.width=16", *overrides]
    recipe = load_recipe("small_depth", None, "smoke", own)
    task = build_task(recipe, device="cpu", head=head, say=lambda text: None)
    assert isinstance(task, DepthTask)
    return task


def batch_of(images: Tensor, targets: list[Tensor], sizes: list[Any] | None = None) -> DenseBatch:
    own = sizes or [(images.shape[2], images.shape[3])] * len(images)
    places = torch.arange(len(images))
    return DenseBatch(
        images=images,
        sizes=own,
        targets=targets,
        original_sizes=[(t.shape[0], t.shape[1]) for t in targets],
        ids=["x"] * len(images),
        indices=places,
        key=0,
        skipped=[],
    )


class Fixed(nn.Module):
    """Stands for a dense model: always these raw maps."""

    def __init__(self, out: Tensor, *others: Tensor) -> None:
        super().__init__()
        self.out, self.others = out, others

    def forward(self, images: Tensor, auxiliary: bool = False) -> Any:
        return (self.out, self.others) if auxiliary else self.out


def scores_of(labels: Tensor, classes: int) -> Tensor:
    """(B, H, W) -> logits (B, K, H, W) that are sure of them."""
    return 50.0 * nn.functional.one_hot(labels.long(), classes).permute(0, 3, 1, 2)


# what a run and a reader of its checkpoint are told


def test_they_are_tasks_with_their_story() -> None:
    task: Task = segmentation(backbone="pvt_v2_b0")
    meta = task.meta().as_json()
    assert (meta["task"], meta["head"], meta["backbone"], meta["profile"]) == (
        "segmentation",
        "semantic_fpn",
        "pvt_v2_b0",
        "smoke",
    )
    assert (meta["num_classes"], meta["class_names"]) == (K, list(SEMANTIC_CLASSES))
    assert (task.meta().pixels, meta["segmentation"]["test_short_side"]) == (IMAGENET, 64)
    assert task.batches_per_epoch(1) == 4
    measured = depth("data.normalization=half")
    assert measured.meta().scale_shift == [1.0, 0.1]
    assert measured.meta().mean == [0.5, 0.5, 0.5]
    assert (measured.meta().depth or {})["test_size"] == [64, 64]
    assert "class_names" not in measured.meta().as_json()


# losses of segmentation


def test_a_head_that_is_sure_of_the_truth_loses_nothing_and_ignored_pixels_do_not_count() -> None:
    task = segmentation()
    truth = torch.randint(0, K, (2, 64, 64), dtype=torch.uint8)
    wrong = truth.clone()
    wrong[:, :32] = (wrong[:, :32] + 1) % K
    targets = truth.clone()
    targets[:, :32] = IGNORE_LABEL
    batch = batch_of(torch.zeros(2, 3, 64, 64), list(targets))
    losses = task.losses(Fixed(scores_of(wrong, K)), batch)
    assert losses["loss"].item() == pytest.approx(0, abs=1e-6)
    assert losses["pixel_acc"].item() == 1
    half = task.losses(Fixed(scores_of(wrong, K)), batch_of(batch.images, list(truth)))
    assert half["loss"].item() == pytest.approx(25, rel=1e-3), "50 nats for half of the pixels"
    assert half["pixel_acc"].item() == 0.5


def test_a_batch_without_any_label_loses_nothing() -> None:
    task = segmentation()
    nothing = torch.full((64, 64), IGNORE_LABEL, dtype=torch.uint8)
    losses = task.losses(task.model.eval(), batch_of(torch.randn(2, 3, 64, 64), [nothing, nothing]))
    assert losses["loss"].item() == losses["pixel_acc"].item() == 0
    losses["loss"].backward()  # type: ignore[no-untyped-call]
    assert all(p.grad is None or torch.count_nonzero(p.grad) == 0 for p in task.model.parameters())


@pytest.mark.parametrize("weight", [0.2, 0.5])
def test_the_auxiliary_loss_is_counted_by_its_weight(weight: float) -> None:
    task = segmentation(f"model.head={{name: dpt, width: 16, auxiliary_weight: {weight}}}")
    truth = torch.zeros(1, 64, 64, dtype=torch.uint8)
    batch = batch_of(torch.zeros(1, 3, 64, 64), list(truth))
    sure, unsure = scores_of(truth, K), torch.zeros(1, K, 8, 8)
    losses = task.losses(Fixed(sure, unsure), batch)
    assert losses["loss_main"].item() == pytest.approx(0, abs=1e-6)
    assert losses["loss_auxiliary"].item() == pytest.approx(weight * math.log(K), rel=1e-5)
    assert losses["loss"].item() == pytest.approx(weight * math.log(K), rel=1e-5)


@pytest.mark.parametrize("head", ["dpt", "deeplabv3plus"])
def test_without_an_auxiliary_weight_there_is_no_such_loss(head: str) -> None:
    task = segmentation(f"model.head={{name: {head}, width: 16, auxiliary_weight: 0}}")
    batch = batch_of(torch.randn(2, 3, 64, 64), [torch.zeros(64, 64, dtype=torch.uint8)] * 2)
    assert set(task.losses(task.model, batch)) == {"loss", "loss_main", "pixel_acc"}


@pytest.mark.parametrize(
    ("head", "backbone"),
    [
        ("semantic_fpn", "resnet18c"),
        ("trans2seg, embed_dim: 32, depth: 1, num_heads: 2", NARROW),
        ("deeplabv3plus, width: 16, auxiliary_weight: 0.4", NARROW),
        ("dpt, width: 16", NARROW),
    ],
)
def test_every_trained_parameter_has_a_gradient(head: str, backbone: str) -> None:
    task = segmentation(f"model.head={{name: {head}}}", backbone=backbone)
    batch = next(iter(task.train_loader(epoch=0, first_batch=0, rank=0, world_size=1)))
    task.losses(task.model.train(), batch)["loss"].backward()  # type: ignore[no-untyped-call]
    without = [name for name, p in task.model.named_parameters() if p.requires_grad and p.grad is None]
    assert without == [], "distributed training would wait for them"


def test_depth_too_trains_every_parameter() -> None:
    for head in ("dpt", "midas"):
        task = depth(f"model.head={{name: {head}, width: 16}}", "train.loss={name: ssi_trimmed}")
        batch = next(iter(task.train_loader(epoch=0, first_batch=0, rank=0, world_size=1)))
        task.losses(task.model.train(), batch)["loss"].backward()  # type: ignore[no-untyped-call]
        assert [name for name, p in task.model.named_parameters() if p.requires_grad and p.grad is None] == []


# a head's classes and the data's


def test_a_head_with_more_classes_in_another_order_is_matched_by_name() -> None:
    names = ["zebra", *reversed(SEMANTIC_CLASSES), "yak"]
    task = segmentation(head=HeadClasses(K + 2, names))
    assert task.train is None
    said = torch.arange(K + 2).repeat_interleave(32).reshape(1, 1, -1).expand(1, 64, -1)
    width = said.shape[2]
    batch = batch_of(torch.zeros(1, 3, 64, width), [torch.zeros(64, width, dtype=torch.uint8)])
    (found,) = task.predict(Fixed(scores_of(said, K + 2)), batch)
    assert found.dtype == torch.uint8
    expected = [IGNORE_LABEL, *reversed(range(K)), IGNORE_LABEL]
    assert found[0, ::32].tolist() == expected, "zebra and yak are none of the data's"
    truth = torch.arange(K).repeat_interleave(32).reshape(1, 1, -1).expand(1, 64, -1)
    own = K - truth  # the head's number of each class
    learned = batch_of(torch.zeros(1, 3, 64, K * 32), [truth[0].to(torch.uint8)])
    assert task.losses(Fixed(scores_of(own, K + 2)), learned)["loss"].item() == pytest.approx(0, abs=1e-6)
    assert task.meta().class_names == names
    assert task.meta().as_json()["palette"] is None


def test_unlabelled_pixels_stay_so_when_classes_are_matched() -> None:
    task = segmentation(head=HeadClasses(K, list(reversed(SEMANTIC_CLASSES))))
    target = torch.full((64, 64), IGNORE_LABEL, dtype=torch.uint8)
    assert task.losses(Fixed(torch.randn(1, K, 64, 64)), batch_of(torch.zeros(1, 3, 64, 64), [target]))["loss"] == 0


@pytest.mark.parametrize("names", [["zebra"] * K, None])
def test_classes_that_the_head_lacks_are_an_error(names: list[str] | None) -> None:
    with pytest.raises(UsageError, match="classes"):
        segmentation(head=HeadClasses(K if names else 7, names))


# losses of depth


def test_the_losses_of_depth_are_those_of_the_recipe() -> None:
    torch.manual_seed(0)
    out, truth = torch.rand(2, 1, 64, 64) + 0.1, torch.rand(2, 64, 64) * 5 + 0.5
    batch = batch_of(torch.zeros(2, 3, 64, 64), list(truth))
    every = torch.ones(2, 64, 64, dtype=torch.bool)
    relative = depth(DPT, "train.loss={name: ssi_trimmed, trim: 0.3, gradient_weight: 0.7}")
    found = relative.losses(Fixed(out), batch)
    main, gradient = ssi_trimmed(out[:, 0], 1 / truth, every, 0.3), gradient_matching(out[:, 0], 1 / truth, every)
    torch.testing.assert_close(found["loss"], main + 0.7 * gradient)
    plain = depth(DPT, "train.loss={name: ssi_trimmed, gradient_weight: 0}").losses(Fixed(out), batch)
    assert set(plain) == {"loss", "loss_main"}
    metric = depth("train.loss={name: silog, gradient_weight: 0, variance_focus: 0.5}").losses(Fixed(out), batch)
    torch.testing.assert_close(metric["loss"], silog(1 / (out[:, 0] + 0.1), truth, every, 0.5))


def test_the_truth_loses_nothing_in_either_space() -> None:
    truth = torch.rand(1, 64, 64) * 5 + 0.5
    batch = batch_of(torch.zeros(1, 3, 64, 64), list(truth))
    silent = depth().losses(Fixed(1 / truth[:, None] - 0.1), batch)
    assert silent["loss_main"].item() == pytest.approx(0, abs=1e-3)
    relative = depth(DPT, "train.loss={name: ssi_trimmed}")
    assert relative.losses(Fixed(7 / truth[:, None] + 3), batch)["loss"].item() == pytest.approx(0, abs=1e-4)


@pytest.mark.parametrize("loss", ["silog", "ssi_trimmed"])
def test_pixels_without_depth_are_not_learned(loss: str) -> None:
    task = depth(f"train.loss.name={loss}")
    torch.manual_seed(0)
    target = torch.rand(1, 64, 64) * 5 + 1
    out = (1 / target[:, None] - 0.1).detach()
    target[:, :20] = 0
    out[:, :, :20] += torch.rand(20, 64)
    out.requires_grad_()
    losses = task.losses(Fixed(out), batch_of(torch.zeros(1, 3, 64, 64), list(target)))
    losses["loss"].backward()  # type: ignore[no-untyped-call]
    assert losses["loss"].item() == pytest.approx(0, abs=2e-3)
    assert torch.count_nonzero(out.grad[:, :, :20]) == 0  # type: ignore[index]


def test_limits_in_metres_do_not_touch_what_a_set_of_inverse_depth_holds() -> None:
    task = depth(DPT, "train.loss={name: ssi_trimmed, trim: 0}", "data.depth.max_depth=8")
    inverse = torch.linspace(0.1, 100, 64 * 64).view(64, 64)
    target = decode_depth(inverse.numpy(), DepthCoding(max_depth=8, inverse=True))
    assert float(target.max()) > 100  # of no unit
    out = torch.rand(1, 1, 64, 64, requires_grad=True)
    task.losses(Fixed(out), batch_of(torch.zeros(1, 3, 64, 64), [target]))["loss"].backward()  # type: ignore[no-untyped-call]
    assert torch.count_nonzero(out.grad[0, 0, 0]) > 32  # type: ignore[index]


@pytest.mark.parametrize("head", ["{name: semantic_fpn, width: 32}", "{name: dpt, width: 16}"])
def test_halves_are_resized_in_full(head: str) -> None:
    """What autocast hands over has three digits: neighbours must not be averaged in that."""
    task = segmentation(f"model.head={head}")
    raw = torch.randn(2, K, 16, 16).bfloat16()
    batch = batch_of(torch.zeros(2, 3, 64, 64), list(torch.randint(K, (2, 64, 64), dtype=torch.uint8)))
    assert torch.equal(task.losses(Fixed(raw), batch)["loss"], task.losses(Fixed(raw.float()), batch)["loss"])


@pytest.mark.parametrize("loss", ["silog", "ssi_trimmed"])
def test_an_image_without_any_depth_teaches_nothing_and_breaks_nothing(loss: str) -> None:
    task = depth(f"train.loss.name={loss}")
    torch.manual_seed(0)
    truth = torch.rand(2, 64, 64) * 5 + 1
    out = torch.rand(2, 1, 64, 64, requires_grad=True)
    truth[1] = 0
    losses = task.losses(Fixed(out), batch_of(torch.zeros(2, 3, 64, 64), list(truth)))
    losses["loss"].backward()  # type: ignore[no-untyped-call]
    assert out.grad is not None
    assert bool(torch.isfinite(out.grad).all())
    assert torch.count_nonzero(out.grad[0]) > 0
    assert torch.count_nonzero(out.grad[1]) == 0
    alone = task.losses(Fixed(out), batch_of(torch.zeros(2, 3, 64, 64), [torch.zeros(64, 64)] * 2))
    assert alone["loss"].item() == 0


def test_metres_are_finite_however_far() -> None:
    assert to_metres(torch.tensor([1.0, -5.0, 0.0]), (2.0, 0.0)).tolist() == pytest.approx(
        [0.5, 1 / FARTHEST, 1 / FARTHEST]
    )


# answers


def images_of_sizes(task: Any, sizes: list[tuple[int, int]]) -> list[DenseBatch]:
    """Batches of one image each, then one of them all, padded."""
    torch.manual_seed(1)
    images = [torch.randn(3, *size) for size in sizes]
    originals = [(height + 3, width * 2) for height, width in sizes]
    targets = [torch.zeros(size) for size in originals]
    height, width = (max(size[side] for size in sizes) for side in (0, 1))
    padded = torch.zeros(len(images), 3, height, width)
    for row, image in zip(padded, images, strict=True):
        row[:, : image.shape[1], : image.shape[2]] = image
    return [
        *(batch_of(image[None], [target]) for image, target in zip(images, targets, strict=True)),
        batch_of(padded, targets, sizes),
    ]


@pytest.mark.parametrize("kind", ["segmentation", "dpt", "depth"])
@pytest.mark.parametrize("sizes", [[(64, 96), (50, 70), (33, 64)], [(64, 80), (64, 80)]])
def test_images_of_several_sizes_are_answered_as_one_by_one(kind: str, sizes: list[tuple[int, int]]) -> None:
    task: Any = depth() if kind == "depth" else segmentation(*([DPT] if kind == "dpt" else []))
    model = task.model.eval()
    *alone, together = images_of_sizes(task, sizes)
    with torch.inference_mode():
        found = task.predict(model, together)
        one_by_one = [task.predict(model, batch)[0] for batch in alone]
    for one, other, size in zip(found, one_by_one, together.original_sizes, strict=True):
        assert tuple(one.shape) == size
        if kind == "depth":
            torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-4)
        else:
            assert (one == other).float().mean() > 0.999


def test_windows_answer_at_the_files_size_too() -> None:
    task = segmentation("eval.window=[48, 48]", "eval.stride=[32, 32]")
    with torch.inference_mode():
        (found,) = task.predict(task.model.eval(), images_of_sizes(task, [(64, 96)])[0])
    assert tuple(found.shape) == (67, 192)


@pytest.mark.parametrize("make", [segmentation, depth])
def test_the_mean_of_an_image_and_itself_is_what_it_was(make: Any) -> None:
    plain, doubled = make(), make("eval.ratios=[1.0, 1.0]")
    batch = next(iter(plain.val_loader(rank=0, world_size=1)))
    with torch.inference_mode():
        (one, *_), (two, *_) = (task.predict(plain.model.eval(), batch) for task in (plain, doubled))
    if make is depth:
        torch.testing.assert_close(one, two)
    else:
        assert (one == two).float().mean() > 0.999


def test_several_ratios_and_the_mirror_are_one_answer() -> None:
    task = segmentation("eval.ratios=[0.5, 1.0, 1.5]", "eval.flip=true")
    seen = []

    class Listening(nn.Module):
        def forward(self, images: Tensor) -> Tensor:
            seen.append(images)
            left_is_0 = torch.zeros(1, K, *images.shape[2:])
            left_is_0[:, 0] = torch.linspace(1, -1, images.shape[3])
            return left_is_0

    batch = next(iter(task.val_loader(rank=0, world_size=1)))
    found = task.predict(Listening(), batch)
    each = seen[:6]
    assert [image.shape[-1] for image in each] == [32, 32, 64, 64, 96, 96]
    for plain, mirrored in zip(each[::2], each[1::2], strict=True):
        assert torch.equal(plain.flip(-1), mirrored)
    assert found[0].shape == batch.targets[0].shape
    assert torch.equal(found[0], found[0].flip(-1)), "the mirror's answer is turned back before the mean is made"


def test_a_mirror_image_has_the_mirrored_depth() -> None:
    task = depth("eval.flip=true")
    batch = next(iter(task.val_loader(rank=0, world_size=1)))
    with torch.inference_mode():
        (found, *_) = task.predict(task.model.eval(), batch)
        task.val.source._cache = {
            at: (pixels.flip(-1), truth.flip(-1))
            for at, (pixels, truth) in ((at, task.val.source.rendered(at)) for at in range(4))
        }
        (turned, *_) = task.predict(task.model, batch)
    torch.testing.assert_close(found.flip(-1), turned, rtol=1e-4, atol=1e-4)


def test_samples_of_the_split_are_kept_once_each() -> None:
    task = segmentation("data.val_samples=9")
    with torch.inference_mode():
        for _ in range(2):
            for batch in task.val_loader(rank=0, world_size=1):
                task.predict(task.model.eval(), batch)
    assert sorted(task.samples) == sorted({at * 9 // NUM_SAMPLES for at in range(NUM_SAMPLES)})
    assert {kept.dtype for kept in task.samples.values()} == {np.dtype(np.uint8)}
    measured = depth()
    with torch.inference_mode():
        for batch in measured.val_loader(rank=0, world_size=1):
            measured.predict(measured.model.eval(), batch)
    assert {kept.dtype for kept in measured.samples.values()} == {np.dtype(np.float16)}
    assert sorted(measured.samples) == [0, 1, 2, 3]


def test_depth_is_scored_in_the_space_of_the_model() -> None:
    metric = depth().metric()
    assert (metric.space, metric.alignment) == ("metres", "none")
    relative = ("train.loss.name=ssi_trimmed", "model.head.scale_shift=null")
    assert (depth(*relative).metric().space, depth(*relative).metric().alignment) == ("inverse", "scale_shift")
    with pytest.raises(UsageError, match="without alignment"):
        depth(*relative, "eval.alignment=none")
    assert depth("eval.alignment=median").metric().alignment == "median"


# what is saved can be used again


@pytest.mark.parametrize(
    ("kind", "overrides"),
    [
        ("segmentation", []),
        ("segmentation", ["model.head={name: deeplabv3plus, width: 32, projection: 3, auxiliary_weight: 0.4}"]),
        ("segmentation", ["model.head={name: trans2seg, embed_dim: 32, depth: 1, num_heads: 4}"]),
        ("segmentation", ["model.head={name: dpt, width: 16, dropout: 0.3}", "data.normalization=half"]),
        ("depth", []),
        (
            "depth",
            [
                "model.head={name: midas, width: 16, scale_shift: null}",
                "train.loss.name=ssi_trimmed",
                "data.normalization=half",
            ],
        ),
        ("depth", ["model.backbone={name: pvt_tiny, width: 0.25, image_size: 64}"]),
        ("deeplab", []),
    ],
)
def test_a_saved_model_is_built_from_its_file_alone_and_says_the_same(
    tmp_path: Path, kind: str, overrides: list[str]
) -> None:
    task: Any
    if kind == "depth":
        task = depth(*overrides)
    elif kind == "deeplab":
        task = segmentation(
            "model.backbone={name: resnet50c, width: 0.25, output_stride: 16}",
            "model.head={name: deeplabv3plus, width: 16}",
        )
    else:
        task = segmentation(*overrides)
    path = tmp_path / "best.safetensors"
    save_safetensors(path, task.model, task.meta())
    inspected = inspect_checkpoint(path)
    assert (inspected.task, inspected.backbone) == (task.name, task.meta().backbone)
    assert inspected.dense is not None
    window = task.testing.window
    options: PredictOptions = {
        "ratios": task.testing.ratios,
        "flip": task.testing.flip,
        "window": window and window.size,
        "stride": window and window.stride,
    }
    use: Any = task.spec.predictor(PredictionRequest(inspected, torch.device("cpu"), options))
    assert use.normalization == task.val.normalization
    if kind == "depth":
        assert use.space == ("metres" if task.dense.scale_shift else "inverse")
    batch = next(iter(task.val_loader(rank=0, world_size=1)))
    with torch.inference_mode(), packed_weights(task.model.eval()):  # as in `evaluate`
        found = task.predict(task.model, batch)
    for index, one in zip(batch.indices.tolist(), found, strict=True):
        again = use.predict_map(task.val.source.pixels(index))
        assert again.dtype == (np.float32 if kind == "depth" else np.uint8)
        np.testing.assert_allclose(again, one.numpy(), rtol=1e-5)
    if kind != "depth":
        assert use.class_names == list(SEMANTIC_CLASSES)


def test_a_backbones_file_has_no_dense_head(tmp_path: Path) -> None:
    task = segmentation()
    path = tmp_path / "backbone.safetensors"
    body = {name: value for name, value in task.model.state_dict().items() if name.startswith("backbone.")}
    save_safetensors(path, body, {"backbone": "pvt_v2_b0@0.25"})
    inspected = inspect_checkpoint(path)
    assert (inspected.dense, inspected.task) == (None, None)
