"""The segmentation loss against its definition."""

from __future__ import annotations

import pytest
import torch

from pvtctl.models.losses.cross_entropy import cross_entropy


def test_mean_over_labelled_pixels() -> None:
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(2, 5, 6, 7, generator=generator)
    labels = torch.randint(0, 5, (2, 6, 7), generator=generator, dtype=torch.uint8)
    labels[0, :3] = 255
    chances = logits.log_softmax(1)
    total, count = torch.zeros(()), 0
    for image in range(2):
        for y in range(6):
            for x in range(7):
                if labels[image, y, x] != 255:
                    total, count = total - chances[image, int(labels[image, y, x]), y, x], count + 1
    torch.testing.assert_close(cross_entropy(logits, labels), total / count)


def test_a_batch_without_labels_is_worth_nothing() -> None:
    logits = torch.randn(1, 3, 4, 4, requires_grad=True)
    loss = cross_entropy(logits, torch.full((1, 4, 4), 255, dtype=torch.uint8))
    loss.backward()
    assert loss.item() == 0
    assert logits.grad is not None
    assert not logits.grad.any()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_logits_are_summed_in_fp32(dtype: torch.dtype) -> None:
    loss = cross_entropy(torch.full((1, 3, 300, 300), 2.0, dtype=dtype), torch.zeros(1, 300, 300, dtype=torch.uint8))
    assert loss.dtype == torch.float32
    assert loss.item() == pytest.approx(torch.tensor(3.0).log().item())
