"""A codebook that starts from components: it draws what it says, and keeps how strong it was."""

from __future__ import annotations

from functools import cache
from typing import Any

import pytest
import torch
from torch import Tensor

from chiasm.core.errors import ConfigError, InputError
from chiasm.data.picturing import PICTURES, PictureCollator
from chiasm.data.world.worlds import WorldDataset
from chiasm.encoders.codebook import Codebook, CodebookConfig
from chiasm.encoders.codebook_start import check_for_components, start_from_components
from tests.tiny_codebooks import ONE_LEVEL

MANY = 61


def codebook(**values: Any) -> Codebook:
    torch.manual_seed(0)
    return CodebookConfig(architecture={**ONE_LEVEL, **values}).build().eval()


@cache
def pictures(first: int = 0, count: int = 13) -> Tensor:
    world = WorldDataset(world="occluded", count=first + count)
    collate = PictureCollator(codebook().transform)
    return collate([world[first + index] for index in range(count)]).targets[PICTURES]


@torch.no_grad()
def error(made: Codebook, pixels: Tensor) -> float:
    """Return the mean squared error of latents drawn as they are."""
    return float((made.decode_latents(made.look(pixels)) - pixels).square().mean())


def error_of_components(seen: Tensor, pixels: Tensor, count: int) -> float:
    """Return that of the widest components of `seen`, which are the best that is linear."""
    cells = torch.nn.functional.pixel_unshuffle(seen, 3).movedim(1, -1).flatten(0, 2)
    given = torch.nn.functional.pixel_unshuffle(pixels, 3).movedim(1, -1).flatten(0, 2)
    widest = torch.pca_lowrank(cells, q=27)[2][:, :count]
    apart = given - cells.mean(0)
    return float((apart - apart @ widest @ widest.T).square().mean())


# Measured, on pictures that were not seen: 0.0064 (0.0051 with 128 channels), where 6 components
# leave 0.0044 and 3 leave 0.0120; random weights 0.36; without the mark 0.045.
@pytest.mark.parametrize("values", [{}, {"num_res_blocks": 0}, {"base_channels": 128}])
def test_it_draws_nearly_as_well_as_components(values: dict[str, Any]) -> None:
    made, others = codebook(**values), pictures(MANY, MANY)
    before = error(made, others)
    start_from_components(made, pictures(0, MANY))
    after = error(made, others)
    assert before > 20 * after
    assert after < 1.8 * error_of_components(pictures(0, MANY), others, 6)
    assert after < 0.7 * error_of_components(pictures(0, MANY), others, 3)


def test_latents_have_all_their_directions() -> None:
    made = codebook()
    start_from_components(made, pictures())
    with torch.no_grad():
        flat = made.look(pictures(13)).flatten(0, 1)
    deviations = torch.linalg.eigvalsh(torch.cov(flat.T)).sqrt()
    # The narrowest is the sphere's own: 6 directions are free.
    assert float(deviations[1]) > 0.05


def test_pale_pictures_are_drawn_pale() -> None:
    made = codebook()
    start_from_components(made, pictures(0, MANY))
    # Measured: 0.0009 and 0.0028; without the mark 0.015 and 0.023.
    for strength, bound in ((0.25, 0.002), (0.5, 0.005)):
        assert error(made, strength * pictures(MANY, MANY)) < bound


def test_blocks_begin_as_the_identity_beside_a_mark_in_the_corners() -> None:
    made = codebook()
    start_from_components(made, pictures())
    encoder, decoder = made.model.encoder, made.model.decoder
    stream = encoder.conv_in(torch.nn.functional.pixel_unshuffle(pictures(), 3))
    with torch.no_grad():
        assert torch.equal(encoder.mid.block_1(stream), stream)
        assert torch.equal(encoder.mid.attn_1(stream), stream)
        for last in (encoder.mid.block_2, decoder.up[0].block[-1]):
            mark = last(stream) - stream
            assert float(mark[:, :, 1:4].abs().max()) < 1e-5
            assert float(mark[:, :, :, 1:4].abs().max()) < 1e-5
            assert float(mark[:, -2:].abs().max()) == 0
            found = mark[:, :-2].square().mean((2, 3)).sqrt()
            assert torch.allclose(found, torch.full_like(found, 3.0), atol=1e-2)
            signs = mark[0, 0, [0, 0, -1, -1], [0, -1, 0, -1]].sign().tolist()
            assert signs in ([1, -1, -1, 1], [-1, 1, 1, -1])


def test_codes_are_left_as_they_are() -> None:
    made = codebook()
    before = made.weight.detach().clone()
    start_from_components(made, pictures())
    assert torch.equal(made.weight, before)


def test_another_architecture_is_refused_with_all_that_is_wrong() -> None:
    wrong = codebook(channel_multiplier=[1, 2], base_channels=32, latent_channels=5)
    told = r"channel_multiplier: \[1, 2\].*\n.*base_channels: 32; .*64\n.*latent_channels: 5; .*7"
    with pytest.raises(ConfigError, match=told):
        check_for_components(wrong)
    with pytest.raises(ConfigError, match="channel_multiplier"):
        start_from_components(wrong, pictures())
    with pytest.raises(ConfigError, match="embed_dim: 1; at least 2"):
        check_for_components(codebook(embed_dim=1))


def test_codes_of_more_numbers_than_there_are_components_are_refused() -> None:
    # 27 components of 3 x 3 pixels of three colours, and a constant.
    check_for_components(codebook(embed_dim=28, latent_channels=31))
    with pytest.raises(ConfigError, match=r"embed_dim: 29; at least 2, and at most 28, .*spread"):
        check_for_components(codebook(embed_dim=29, latent_channels=31))
    # 64 channels hold 30 pairs besides the mark.
    wide = {"in_channels": 48, "out_channels": 48, "latent_channels": 37}
    check_for_components(codebook(embed_dim=30, **wide))
    with pytest.raises(ConfigError, match="embed_dim: 31; at least 2, and at most 30"):
        check_for_components(codebook(embed_dim=31, **wide))


def test_as_many_numbers_as_there_are_components_all_say_something() -> None:
    made = codebook(embed_dim=28, latent_channels=31)
    start_from_components(made, pictures(0, MANY))
    with torch.no_grad():
        said = made.look(pictures(MANY, MANY)).flatten(0, 1)
    assert float(said.std(0).min()) > 0


def test_too_few_cells_and_cells_all_alike_are_refused() -> None:
    with pytest.raises(InputError, match="0 cells to start from, for codes of 7 numbers"):
        start_from_components(codebook(), torch.zeros(0, 3, 15, 15))
    with pytest.raises(InputError, match="25 cells to start from, for codes of 26 numbers"):
        start_from_components(codebook(embed_dim=26, latent_channels=31), pictures()[:1])
    with pytest.raises(InputError, match="50 cells to start from, all alike"):
        start_from_components(codebook(), torch.full((2, 3, 15, 15), 0.3))
