"""The parts that the transformers share."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from pvtctl.models.layers.attention import SpatialReductionAttention
from pvtctl.models.layers.block import DropPath, drop_path_rates
from pvtctl.models.layers.patches import PatchEmbed, resize_position_table, to_map, to_tokens, use_channels_last


class TestMaps:
    def test_map_and_tokens_share_memory(self) -> None:
        tokens = torch.randn(2, 6 * 5, 4)
        x = to_map(tokens, (6, 5))
        assert x.shape == (2, 4, 6, 5)
        assert x.is_contiguous(memory_format=torch.channels_last)
        assert x.data_ptr() == tokens.data_ptr() == to_tokens(x).data_ptr()
        assert torch.equal(to_tokens(x), tokens)

    @pytest.mark.parametrize("batch", [1, 2])
    def test_convolutions_of_maps_stay_channels_last(self, batch: int) -> None:
        """Also at batch 1, where a wrong batch stride once made every depthwise convolution six times slower."""
        x = to_map(torch.randn(batch, 8 * 9, 4), (8, 9))
        assert x.stride() == (8 * 9 * 4, 1, 9 * 4, 4)
        depthwise = nn.Conv2d(4, 4, 3, padding=1, groups=4)
        assert depthwise(x).stride() == x.stride()

    def test_convolutions_keep_names_and_values_in_channels_last(self) -> None:
        model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.Sequential(nn.Conv2d(8, 8, 1), nn.ConvTranspose2d(8, 8, 2)))
        before = {name: value.clone() for name, value in model.state_dict().items()}
        assert use_channels_last(model) is model
        assert list(model.state_dict()) == list(before)
        assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
        assert model[0].weight.is_contiguous(memory_format=torch.channels_last)
        assert model[1][1].weight.is_contiguous()

    def test_overlapping_patches_round_up_and_plain_ones_down(self) -> None:
        x = torch.randn(1, 3, 35, 37)
        assert PatchEmbed(3, 8, 4)(x)[1] == (8, 9)
        assert PatchEmbed(3, 8, 4, overlapping=True)(x)[1] == (9, 10)


class TestPosition:
    def test_same_area_of_another_shape_is_resized(self) -> None:
        table = torch.arange(4.0).repeat(4).view(1, 16, 1)  # the column's number
        wide = resize_position_table(table, (4, 4), (2, 8)).view(2, 8)
        assert torch.equal(wide[0], wide[1])
        assert (wide[0].diff() >= 0).all()

    def test_equal_sides_are_left_alone(self) -> None:
        table = torch.randn(1, 12, 3)
        assert resize_position_table(table, (3, 4), (3, 4)) is table

    def test_is_bilinear_without_aligned_corners(self) -> None:
        table = torch.randn(1, 12, 5)
        expected = F.interpolate(table.view(1, 3, 4, 5).permute(0, 3, 1, 2), (7, 6), mode="bilinear")
        got = resize_position_table(table, (3, 4), (7, 6))
        torch.testing.assert_close(got, expected.flatten(2).transpose(1, 2))


class TestAttention:
    def test_reduction_shrinks_keys_and_linear_pools_to_49(self) -> None:
        tokens = torch.randn(2, 20 * 17, 16)
        assert SpatialReductionAttention(16, 2, 4).reduced(tokens, (20, 17)).shape == (2, 5 * 4, 16)
        assert SpatialReductionAttention(16, 2, 4, linear=True).reduced(tokens, (20, 17)).shape == (2, 49, 16)
        assert SpatialReductionAttention(16, 2, 1).reduced(tokens, (20, 17)) is tokens


class TestDropPath:
    def test_drops_whole_samples_and_keeps_the_mean(self) -> None:
        torch.manual_seed(0)
        out = DropPath(0.25).train()(torch.ones(4000, 3, 2))
        per_sample = out.flatten(1)
        assert (per_sample == per_sample[:, :1]).all()
        assert per_sample[:, 0].unique().tolist() == pytest.approx([0.0, 1 / 0.75])
        assert out.mean().item() == pytest.approx(1.0, abs=0.03)

    def test_does_nothing_in_evaluation_or_at_rate_0(self) -> None:
        x = torch.randn(4, 3, 2)
        assert DropPath(0.5).eval()(x) is x
        assert DropPath(0.0).train()(x) is x

    def test_rates_rise_linearly_over_all_blocks(self) -> None:
        assert drop_path_rates(0.3, 4) == pytest.approx([0.0, 0.1, 0.2, 0.3])
        assert drop_path_rates(0.3, 1) == [0.0]
