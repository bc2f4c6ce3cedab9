"""The depth losses: by hand, against plain loops, and in every corner where a NaN could hide."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor

from pvtctl.models.losses.depth import gradient_matching, silog, ssi_trimmed

Loss = Callable[[Tensor, Tensor, Tensor], Tensor]
ALL: tuple[Loss, ...] = (ssi_trimmed, gradient_matching, silog)


def maps(height: int = 11, width: int = 14, batch: int = 3) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    prediction = torch.rand(batch, height, width, generator=generator) + 0.2
    target = torch.rand(batch, height, width, generator=generator) * 4 + 0.5
    return prediction, target, torch.rand(batch, height, width, generator=generator) < 0.7


def normalised(values: np.ndarray) -> np.ndarray:
    median = np.sort(values)[(len(values) - 1) // 2]
    return (values - median) / np.abs(values - median).mean()


def test_trimmed_loss_by_hand() -> None:
    # median 2, mean deviation (2 + 1 + 0 + 1 + 6) / 5 = 2; target: median 2, deviation (2 + 1 + 0 + 1 + 2) / 5 = 1.2
    prediction = torch.tensor([[[0.0, 1.0, 2.0, 3.0, 8.0]]])
    target = torch.tensor([[[0.0, 1.0, 2.0, 3.0, 4.0]]])
    mask = torch.ones(1, 1, 5, dtype=torch.bool)
    differences = [abs(-2 / 2 + 2 / 1.2), abs(-1 / 2 + 1 / 1.2), 0.0, abs(1 / 2 - 1 / 1.2), abs(6 / 2 - 2 / 1.2)]
    kept = sorted(differences)[:4]
    assert ssi_trimmed(prediction, target, mask, 0.2).item() == pytest.approx(sum(kept) / 10, abs=1e-6)
    assert ssi_trimmed(prediction, target, mask, 0.0).item() == pytest.approx(sum(differences) / 10, abs=1e-6)


def test_trimmed_loss_is_the_papers() -> None:
    prediction, target, mask = maps()
    expected = []
    for p, t, m in zip(prediction.numpy(), target.numpy(), mask.numpy(), strict=True):
        residuals = np.sort(np.abs(normalised(p[m]) - normalised(t[m])))
        expected.append(residuals[: len(residuals) - int(0.2 * len(residuals))].sum() / (2 * len(residuals)))
    assert ssi_trimmed(prediction, target, mask, 0.2).item() == pytest.approx(np.mean(expected), rel=1e-5)


def test_gradient_matching_is_the_papers() -> None:
    prediction, target, mask = maps()
    expected = []
    for p, t, m in zip(prediction.numpy(), target.numpy(), mask.numpy(), strict=True):
        residual = np.zeros_like(p)
        residual[m] = normalised(p[m]) - normalised(t[m])
        total = 0.0
        for step in (1, 2, 4, 8):
            part, there, steps = residual[::step, ::step], m[::step, ::step], 0.0
            for y in range(part.shape[0]):
                for x in range(part.shape[1]):
                    if x + 1 < part.shape[1] and there[y, x] and there[y, x + 1]:
                        steps += abs(part[y, x + 1] - part[y, x])
                    if y + 1 < part.shape[0] and there[y, x] and there[y + 1, x]:
                        steps += abs(part[y + 1, x] - part[y, x])
            total += steps / there.sum()
        expected.append(total)
    assert gradient_matching(prediction, target, mask).item() == pytest.approx(np.mean(expected), rel=1e-4)


def test_silog_by_hand() -> None:
    prediction, target = torch.tensor([[[math.e, 1.0]]]), torch.ones(1, 1, 2)
    mask = torch.ones(1, 1, 2, dtype=torch.bool)
    # d = (1, 0): mean of squares 1/2, square of the mean 1/4
    for focus in (0.0, 0.5, 0.85, 1.0):
        wanted = math.sqrt(0.5 - focus * 0.25)
        assert silog(prediction, target, mask, focus).item() == pytest.approx(wanted, rel=1e-6)


def test_what_each_loss_is_blind_to() -> None:
    prediction, target, mask = maps()
    for loss in (ssi_trimmed, gradient_matching):
        assert loss(3.7 * prediction + 12, target, mask).item() == pytest.approx(
            loss(prediction, target, mask).item(), rel=1e-3
        )
        assert loss(0.02 * target - 5, target, mask).item() == pytest.approx(0, abs=1e-3)
    assert silog(2 * prediction, target, mask, 1.0).item() == pytest.approx(
        silog(prediction, target, mask, 1.0).item(), rel=1e-5
    )
    assert silog(2 * prediction, target, mask, 0.85) != silog(prediction, target, mask, 0.85)


@pytest.mark.parametrize("loss", ALL)
def test_masked_pixels_do_not_matter(loss: Loss) -> None:
    prediction, target, mask = maps()
    spoilt = torch.where(mask, prediction, math.nan).requires_grad_()
    value = loss(spoilt, torch.where(mask, target, 0.0), mask)
    assert value.item() == loss(prediction, target, mask).item()
    value.backward()
    assert spoilt.grad is not None
    assert spoilt.grad.isfinite().all()
    assert (spoilt.grad[~mask] == 0).all()


@pytest.mark.parametrize("loss", ALL)
@pytest.mark.parametrize("valid", [0, 1, 2, 150])
@pytest.mark.parametrize("constant", ["prediction", "target", "both", "equal", "zero"])
def test_no_corner_gives_a_nan(loss: Loss, valid: int, constant: str) -> None:
    prediction, target, _ = maps()
    mask = torch.zeros_like(target, dtype=torch.bool)
    mask.flatten(1)[:, :valid] = True
    if constant in ("prediction", "both"):
        prediction = torch.full_like(prediction, 1000.1)
    if constant in ("target", "both"):
        target = torch.full_like(target, 0.7)
    if constant == "equal":
        target = prediction.clone()
    if constant == "zero":
        prediction = torch.zeros_like(prediction)
    prediction.requires_grad_()
    value = loss(prediction, target, mask)
    value.backward()
    assert value.isfinite()
    assert prediction.grad is not None
    assert prediction.grad.isfinite().all()
    if valid < 2:
        assert value == 0
        assert (prediction.grad == 0).all()


def test_a_flat_prediction_learns() -> None:
    _, target, mask = maps()
    prediction = torch.full_like(target, 3.0, requires_grad=True)
    ssi_trimmed(prediction, target, mask).backward()
    assert prediction.grad is not None
    assert 0 < prediction.grad.abs().max() < 1


@pytest.mark.parametrize("loss", ALL)
def test_images_without_truth_count_as_nothing(loss: Loss) -> None:
    prediction, target, mask = maps()
    mask[1] = False
    alone = [loss(prediction[i : i + 1], target[i : i + 1], mask[i : i + 1]).item() for i in range(3)]
    assert alone[1] == 0
    assert loss(prediction, target, mask).item() == pytest.approx(sum(alone) / 3, rel=1e-5)


@pytest.mark.parametrize("loss", ALL)
@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_what_is_not_finite_is_told(loss: Loss, bad: float) -> None:
    prediction, target, mask = maps()
    mask[0, 0, 0] = True
    prediction[0, 0, 0] = bad
    assert not loss(prediction, target, mask).isfinite()


@pytest.mark.parametrize("loss", ALL)
def test_fp32_under_autocast(loss: Loss) -> None:
    prediction, target, mask = maps()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        value = loss(prediction.bfloat16(), target, mask)
    assert value.dtype == torch.float32
    assert value.item() == loss(prediction.bfloat16().float(), target, mask).item()


@pytest.mark.parametrize("loss", ALL)
def test_slopes_are_right(loss: Loss) -> None:
    prediction, target, mask = maps(6, 7, 2)
    prediction.requires_grad_()
    loss(prediction, target, mask).backward()
    assert prediction.grad is not None
    direction = torch.randn(prediction.shape, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        step = 1e-3
        slope = (
            loss(prediction + step * direction, target, mask) - loss(prediction - step * direction, target, mask)
        ) / (2 * step)
    assert (prediction.grad * direction).sum().item() == pytest.approx(slope.item(), rel=0.05)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("loss", ALL)
def test_the_same_on_a_gpu(loss: Loss) -> None:
    prediction, target, mask = maps()
    there = [part.cuda() for part in (prediction, target, mask)]
    with torch.autocast("cuda", dtype=torch.bfloat16):
        assert loss(*there).item() == pytest.approx(loss(prediction, target, mask).item(), rel=1e-5)
