"""The mask head: its size, its input, its padding, and batches against loops."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from chiasm.core.config import read_config
from chiasm.core.errors import ConfigError, InputError
from chiasm.heads.mask_unet import MaskUNet, MaskUNetConfig, normalise


def tiny(channels: int = 5, least: int = 13) -> MaskUNet:
    torch.manual_seed(0)
    return MaskUNetConfig(channels=channels, widths=(3, 7, 11), least=least).build().eval()


@pytest.mark.parametrize("channels", [1, 384, 1024])
def test_parameters_are_those_of_the_published_head(channels: int) -> None:
    head = MaskUNetConfig(channels=channels).build()
    assert sum(p.numel() for p in head.parameters()) == 7_182_785 + 576 * channels


def test_it_is_made_of_what_was_published() -> None:
    """Bias-free convolutions with group norm of one group; one biased convolution at the end."""
    head = MaskUNetConfig(channels=2).build()
    convolutions = {n: m for n, m in head.named_modules() if isinstance(m, nn.Conv2d)}
    assert {name for name, one in convolutions.items() if one.bias is not None} == {"score"}
    norms = [m for m in head.modules() if isinstance(m, nn.GroupNorm)]
    assert len(norms) == len(convolutions) - 1 == 4 * 2 + 3 * 3
    assert {norm.num_groups for norm in norms} == {1}


def test_a_channel_says_where_and_not_how_much() -> None:
    maps = torch.rand(2, 3, 5, 7)
    assert torch.allclose(normalise(maps).sum(dim=(2, 3)), torch.ones(2, 3))
    assert (normalise(torch.zeros(1, 1, 2, 2)) == 0).all()
    # 1e-12 is the least divisor: a sum of 4e-13 is not made 1.
    assert torch.allclose(normalise(torch.full((1, 1, 2, 2), 1e-13)), torch.tensor(0.1))
    head = tiny()
    torch.testing.assert_close(
        head(maps[:, :, :, :].repeat(1, 2, 1, 1)[:, :5] / 4), head(maps.repeat(1, 2, 1, 1)[:, :5])
    )


@pytest.mark.parametrize(
    ("size", "expected"),
    [
        ((3, 4), (10, 13)),
        ((13, 2), (13, 2)),
        ((17, 6), (17, 6)),
        ((24, 24), (24, 24)),
        ((1, 5), (3, 13)),
    ],
)
def test_small_maps_grow_and_others_keep_their_size(
    size: tuple[int, int], expected: tuple[int, int]
) -> None:
    assert tiny()(torch.rand(1, 5, *size)).shape == (1, *expected)


def test_the_default_grows_24_to_64() -> None:
    head = MaskUNetConfig(channels=2, widths=(3, 5)).build()
    assert head(torch.rand(1, 2, 24, 24)).shape == (1, 64, 64)
    assert head(torch.rand(1, 2, 48, 36)).shape == (1, 64, 48)


def test_padding_is_zeros_right_and_below_and_is_cut_off() -> None:
    """What the head does with 13 x 14 is what the bare net does with the padded 16 x 16."""
    head = tiny()
    maps = torch.rand(1, 5, 13, 14)
    padded = torch.zeros(1, 5, 16, 16)
    padded[:, :, :13, :14] = normalise(maps)
    assert torch.equal(head(maps), head._run(padded)[:, :13, :14])


@settings(max_examples=25, deadline=None)
@given(sizes=st.lists(st.tuples(st.integers(1, 19), st.integers(1, 19)), min_size=1, max_size=6))
def test_one_forward_of_many_equals_the_loop(sizes: list[tuple[int, int]]) -> None:
    head = tiny()
    maps = [torch.rand(5, *size) for size in [*sizes, sizes[0]]]
    with torch.no_grad():
        together = head.predict(maps)
        alone = [head(one[None])[0] for one in maps]
    for one, other in zip(together, alone, strict=True):
        # Measured at most 5e-7: the library may sum a larger batch in another order.
        torch.testing.assert_close(one, other, rtol=1e-5, atol=2e-6)


def test_no_map_gives_no_mask() -> None:
    assert tiny().predict([]) == []
    assert tiny()(torch.zeros(0, 5, 3, 4)).shape == (0, 10, 13)


def test_every_weight_gets_a_gradient() -> None:
    head = tiny()
    head(torch.rand(2, 5, 14, 13)).square().sum().backward()
    assert all(p.grad is not None and bool(p.grad.any()) for p in head.parameters())


def test_logits_are_float32_whatever_the_maps_are() -> None:
    assert tiny()(torch.rand(1, 5, 7, 7, dtype=torch.bfloat16)).dtype == torch.float32


@pytest.mark.parametrize("value", [-0.01, 1.5, float("nan")])
def test_what_is_no_attention_is_refused(value: float) -> None:
    maps = torch.rand(1, 5, 7, 7)
    maps[0, 2, 3, 4] = value
    with pytest.raises(InputError, match="attention lies in"):
        tiny()(maps)


def test_other_channels_are_refused() -> None:
    with pytest.raises(InputError, match=r"\(1, 6, 7, 7\), the head has 5 channels"):
        tiny()(torch.rand(1, 6, 7, 7))


def test_impossible_sizes_are_all_told_at_once() -> None:
    with pytest.raises(ConfigError) as caught:
        read_config(MaskUNetConfig, {"channels": 0, "widths": [4, 0], "least": 0}, "head")
    assert len(caught.value.faults) == 3


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_weights_of_half_types_score_maps_of_float32(dtype: torch.dtype) -> None:
    maps = torch.rand(2, 5, 9, 7)
    with torch.no_grad():
        whole, half = tiny()(maps), tiny().to(dtype)(maps)
    assert half.dtype == torch.float32
    # Measured at most 0.0023 (bfloat16) of logits from 0.15 to 0.30.
    torch.testing.assert_close(half, whole, rtol=0, atol=0.01)
