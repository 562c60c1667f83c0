"""The codebook against the library's own VQ-VAE: the same codes, the same pictures."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn
from transformers.models.janus.configuration_janus import JanusVQVAEConfig
from transformers.models.janus.modeling_janus import JanusVQVAE

from chiasm.encoders.codebook import Codebook, CodebookConfig
from tests.tiny_codebooks import ARCHITECTURE, SIDE, tiny_pixels

TOLERANCE = 2e-5
"""Pictures about [-1, 1]; measured 4e-6: memory formats differ, and with them the order of sums."""


def library(seed: int = 0, **values: object) -> JanusVQVAE:
    """Build the library's model with codes of length 1, on which its two ways agree."""
    torch.manual_seed(seed)
    model = JanusVQVAE(JanusVQVAEConfig(**{**ARCHITECTURE, **values})).eval()
    with torch.no_grad():
        rows = model.quantize.embedding.weight
        rows.copy_(nn.functional.normalize(rows, dim=-1))
    return model


@pytest.mark.parametrize("channels", [3, 12])
def test_codes_and_pictures_are_the_library_s(channels: int) -> None:
    fold = {3: 1, 12: 2}[channels]
    theirs = library(in_channels=channels, out_channels=channels)
    ours = Codebook(theirs)
    side = SIDE * fold // 2
    pixels = nn.functional.interpolate(tiny_pixels(5), (side, side))
    with torch.no_grad():
        encoded = theirs.encode(nn.functional.pixel_unshuffle(pixels, fold))
        indices = ours.encode(pixels).indices
        assert torch.equal(indices.flatten(), encoded.image_tokens)
        drawn = nn.functional.pixel_shuffle(theirs.decode(indices), fold)
        assert (ours.decode(indices) - drawn.clamp(-1, 1)).abs().max() < TOLERANCE


def test_a_saved_codebook_is_read_by_the_library(tmp_path: Path) -> None:
    torch.manual_seed(1)
    ours = CodebookConfig(architecture=ARCHITECTURE).build().eval()
    with torch.no_grad():
        ours.weight.mul_(torch.rand(53, 1) + 0.5)
    ours.save(tmp_path)
    theirs = JanusVQVAE.from_pretrained(tmp_path).eval()
    pixels = tiny_pixels(5)
    with torch.no_grad():
        codes = ours.encode(pixels)
        found = theirs.encode(nn.functional.pixel_unshuffle(pixels, 2)).image_tokens
        assert torch.equal(codes.indices.flatten(), found)
        drawn = nn.functional.pixel_shuffle(theirs.decode(codes.indices), 2).clamp(-1, 1)
    assert (drawn - ours.decode(codes.indices)).abs().max() < TOLERANCE


def test_codes_of_other_lengths_mean_the_same_both_ways() -> None:
    """The library chooses by codes as they are and draws them at length 1; here both are at 1."""
    theirs = library(2)
    ours = Codebook(theirs)
    pixels = tiny_pixels(7)
    with torch.no_grad():
        before = ours.encode(pixels).indices
        lengths = torch.linspace(0.2, 3.0, 53)[:, None]
        theirs.quantize.embedding.weight.mul_(lengths)
        folded = nn.functional.pixel_unshuffle(pixels, 2)
        assert not torch.equal(theirs.encode(folded).image_tokens, before.flatten())
        assert torch.equal(ours.encode(pixels).indices, before)
