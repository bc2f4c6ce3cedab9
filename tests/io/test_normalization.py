"""Mean and deviation of pixels as text and as numbers."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pvtctl.errors import UsageError
from pvtctl.io.checkpoint_meta import CheckpointMeta
from pvtctl.io.normalization import HALF, IMAGENET, NORMALIZATIONS, Normalization

numbers = st.tuples(*[st.floats(-300, 300)] * 3)
deviations = st.tuples(*[st.floats(1e-3, 300)] * 3)


@given(numbers, deviations, st.sampled_from(["rgb", "bgr"]))
def test_text_and_metadata_read_back(mean, std, order) -> None:
    how = Normalization(mean, std, order)
    assert Normalization.read(str(how)) == how
    meta = CheckpointMeta(backbone="x").with_pixels(how)
    assert CheckpointMeta.read(meta.as_json(), "file").pixels == how
    assert CheckpointMeta.read(meta.with_pixels(IMAGENET).as_json(), "file").pixels == IMAGENET


@pytest.mark.parametrize("name", NORMALIZATIONS)
def test_names_stand_for_numbers(name: str) -> None:
    assert str(Normalization.read(f" {name} ")) == name
    assert f"({name})" in NORMALIZATIONS[name].in_words


@pytest.mark.parametrize(
    ("text", "same"),
    [
        ("mean=0,0,0 std=1,1,1 range=-1..1", HALF),
        ("std=127.5,127.5,127.5 mean=127.5,127.5,127.5 range=0..255", HALF),
        ("mean=103.53,116.28,123.675 std=1,1,1 range=0..255 order=bgr", NORMALIZATIONS["caffe"]),
        ("mean=0.485,0.456,0.406 std=0.229,0.224,0.225", IMAGENET),
    ],
)
def test_a_range_is_folded_in(text: str, same: Normalization) -> None:
    assert Normalization.read(text) == same


@given(numbers, deviations, st.sampled_from([(0.0, 1.0), (0.0, 255.0), (-1.0, 1.0), (16.0, 235.0)]), st.floats(0, 1))
def test_inputs_do_not_depend_on_how_the_range_is_said(mean, std, limits, share) -> None:
    low, high = limits
    how = Normalization.of_range(mean, std, limits)
    value = low + share * (high - low)
    for channel in range(3):
        expected = (value - mean[channel]) / std[channel]
        assert (share - how.mean[channel]) / how.std[channel] == pytest.approx(expected, rel=1e-6, abs=1e-6)


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", "is not a mean and standard deviation"),
        ("imagnet", "is not a mean and standard deviation"),
        ("mean=0.5,0.5,0.5", "is not a mean and standard deviation"),
        ("mean=0.5,0.5 std=1,1,1", "2 means"),
        ("mean=a,b,c std=1,1,1", "is not a mean and standard deviation"),
        ("mean=0,0,0 std=0,1,1", "each must be above 0"),
        ("mean=0,0,0 std=-1,1,1", "each must be above 0"),
        ("mean=0,0,0 std=nan,1,1", "each must be above 0"),
        ("mean=inf,0,0 std=1,1,1", "a mean of inf"),
        ("mean=0,0,0 std=1,1,1 range=1..1", "no black and white"),
        ("mean=0,0,0 std=1,1,1 range=0", "is not a mean and standard deviation"),
        ("mean=0,0,0 std=1,1,1 order=rbg", "neither rgb nor bgr"),
        ("mean=0,0,0 mean=0,0,0 std=1,1,1", "is not a mean and standard deviation"),
        ("mean=0,0,0 std=1,1,1 gamma=2", "is not a mean and standard deviation"),
    ],
)
def test_what_is_none_is_refused(text: str, why: str) -> None:
    with pytest.raises(UsageError, match=why) as refused:
        Normalization.read(text)
    assert "imagenet" in str(refused.value.hint)


@pytest.mark.parametrize("std", [[0.0, 1.0, 1.0], [float("inf")] * 3, [1.0, 1.0]])
def test_a_header_without_a_deviation_is_damaged(std: list[float]) -> None:
    with pytest.raises(UsageError, match=r"x\.safetensors: the metadata is damaged: std"):
        CheckpointMeta.read({"mean": [0.5] * 3, "std": std}, "x.safetensors")


def test_headers_of_earlier_versions_name_it() -> None:
    assert CheckpointMeta.read({"normalization": "half"}, "x").pixels == HALF
    assert CheckpointMeta.read({"mean": [0.5] * 3}, "x").pixels is None
