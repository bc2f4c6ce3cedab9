"""The loss against its definition."""

from __future__ import annotations

import torch

from pvtctl.models.losses.cross_entropy import classification_loss


def test_soft_targets_follow_the_definition() -> None:
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(4, 6, generator=generator)
    targets = torch.rand(4, 6, generator=generator).softmax(1)
    expected = -(targets * logits.log_softmax(1)).sum(1).mean()
    torch.testing.assert_close(classification_loss(logits, targets), expected)


def test_a_class_equals_its_one_hot_target() -> None:
    logits = torch.randn(4, 6, generator=torch.Generator().manual_seed(0))
    labels = torch.tensor([0, 3, 5, 1])
    one_hot = torch.nn.functional.one_hot(labels, 6).float()
    torch.testing.assert_close(classification_loss(logits, one_hot), classification_loss(logits, labels))


def test_half_precision_logits_are_summed_in_fp32() -> None:
    assert classification_loss(torch.zeros(2, 3, dtype=torch.bfloat16), torch.tensor([0, 1])).dtype == torch.float32
