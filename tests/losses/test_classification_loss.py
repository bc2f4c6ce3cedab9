"""The loss against its definition."""

from __future__ import annotations

import torch

from pvtctl.losses.classification import classification_loss


def test_smoothing_and_mixing_commute() -> None:
    logits = torch.randn(4, 6, generator=torch.Generator().manual_seed(0))
    labels = torch.tensor([0, 3, 5, 1])
    one_hot = torch.nn.functional.one_hot(labels, 6).float()
    mixed = 0.7 * one_hot + 0.3 * one_hot.flip(0)
    smooth = 0.9 * mixed + 0.1 / 6
    expected = -(smooth * logits.log_softmax(1)).sum(1).mean()
    torch.testing.assert_close(classification_loss(logits, mixed, label_smoothing=0.1), expected)
    torch.testing.assert_close(
        classification_loss(logits, one_hot, label_smoothing=0.1),
        classification_loss(logits, labels, label_smoothing=0.1),
    )


def test_half_precision_logits_are_summed_in_fp32() -> None:
    assert classification_loss(torch.zeros(2, 3, dtype=torch.bfloat16), torch.tensor([0, 1])).dtype == torch.float32
