"""Classes are matched by name; nothing is scored under a wrong one."""

from __future__ import annotations

import pytest

from pvtctl.data.class_names import imagenet_classes
from pvtctl.errors import UsageError
from pvtctl.tasks.classes import match_classes, training_classes
from pvtctl.weights.describe import head_class_names


def test_order_and_subset_follow_the_names() -> None:
    assert match_classes(["c", "a"], ["a", "b", "c"], 3).tolist() == [2, 0]


def test_a_thousand_nameless_classes_are_imagenets() -> None:
    names = head_class_names(None, 1000)
    assert names == list(imagenet_classes())
    assert match_classes(["n01443537", "n01440764"], names, 1000).tolist() == [1, 0]
    assert head_class_names(["cat", "dog"], 2) == ["cat", "dog"]
    assert head_class_names(["cat"], 2) is None, "names of another head"


def test_nameless_heads_match_by_number_only() -> None:
    assert match_classes(["b", "a"], None, 2).tolist() == [0, 1]
    with pytest.raises(UsageError, match="3 classes without names, the data has 2"):
        match_classes(["b", "a"], None, 3)


def test_unknown_classes_are_named() -> None:
    with pytest.raises(UsageError, match="1 of the data's 2 classes are not among the model's 2: zebra"):
        match_classes(["a", "zebra"], ["a", "b"], 2)


def test_training_classes() -> None:
    assert training_classes(["b", "a"], None) == ["b", "a"]
    assert len(training_classes(["n01443537", "n01440764"], 1000)) == 1000
    with pytest.raises(UsageError, match=r"model.num_classes is 5, but the data has 2"):
        training_classes(["b", "a"], 5)
