"""Hosts from scratch: how positions share a head, and how attention may start."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from chiasm.core.errors import ConfigError
from chiasm.language.host import Host
from chiasm.language.scratch import ScratchHostConfig, start_alike
from tests.tiny import picture, tiny_batch

CORPUS = ["user\nassistant\nWhat is it? a red cup"] * 7
SMALL: dict[str, Any] = {
    "vocabulary": 300,
    "width": 64,
    "layers": 2,
    "heads": 4,
    "key_value_heads": 2,
    "intermediate": 53,
    "vision_width": 16,
    "vision_layers": 2,
    "vision_heads": 2,
    "vision_intermediate": 31,
}


def build(**more: Any) -> Host:
    return ScratchHostConfig(**{**SMALL, **more}).build(CORPUS)


def sections(host: Host) -> list[int]:
    return host.model.config.get_text_config().rope_parameters["mrope_section"]


@pytest.mark.parametrize(("width", "heads"), [(64, 4), (128, 4), (96, 2), (88, 4)])
@pytest.mark.parametrize("layout", ["blocks", "interleaved"])
def test_all_frequencies_are_shared_out(width: int, heads: int, layout: str) -> None:
    host = build(width=width, heads=heads, rotary_layout=layout)
    found = sections(host)
    half = width // heads // 2
    assert sum(found) == half
    # The library gives section i to direction i mod 3: time, rows, columns, time, ...
    shares = [sum(found[direction::3]) for direction in range(3)]
    assert shares[1] == shares[2] == half * 7 // 16
    assert (len(found) == 3) == (layout == "blocks")


def test_interleaved_gives_rows_and_columns_high_and_low_frequencies() -> None:
    directions = [
        place % 3
        for place, count in enumerate(sections(build(width=128, rotary_layout="interleaved")))
        for _ in range(count)
    ]
    assert directions[:6] == [0, 1, 2, 1, 2, 1]
    assert directions[-3:] == [1, 2, 0]
    blocks = sections(build(width=128))
    assert blocks == [2, 7, 7]


@torch.no_grad()
def test_the_library_rotates_by_the_interleaved_layout() -> None:
    """A shift of all columns changes what is read through both high and low frequencies."""
    host = build(rotary_layout="interleaved")
    batch = tiny_batch(host, [["What?", picture(32, 40, 1)]])
    seen = host.encode(batch.host_images, batch.geometries)
    spliced = host.splice(batch, seen.tokens, seen.extras)
    assert host.read(spliced).shape == (1, spliced.input_ids.shape[1], 64)
    rotary = host.model.base_model.language_model.rotary_emb
    states = torch.zeros(1, 3, 64)
    place = torch.zeros(3, 1, 3, dtype=torch.long)
    place[2, 0] = torch.arange(3)
    cosines, _ = rotary(states, place)
    # What is rotated by position: the library picks the direction of each frequency later on.
    assert cosines.shape[0] in (1, 3)


@pytest.mark.parametrize("start", ["random", "alike"])
@torch.no_grad()
def test_an_alike_start_prefers_the_same_token(start: str) -> None:
    """Half of the key heads give a token the highest score with itself, at any distance."""
    host = build(width=128, attention_start=start, seed=3)
    attention = host.model.base_model.language_model.layers[0].self_attn
    tokens = torch.randn(23, 128)
    query = attention.q_proj(tokens).unflatten(1, (4, 32))
    key = attention.k_proj(tokens).unflatten(1, (2, 32)).repeat_interleave(2, 1)
    scores = torch.einsum("qhd,khd->hqk", query - query.mean(0), key - key.mean(0))
    own = [float((one.argmax(1) == torch.arange(23)).float().mean()) for one in scores]
    if start == "alike":
        assert min(own[:2]) > 0.9 and max(own[2:]) < 0.3
    else:
        assert max(own) < 0.3


@torch.no_grad()
def test_an_alike_start_leaves_high_frequencies_to_positions() -> None:
    host = build(width=128)
    attention = host.model.base_model.language_model.layers[0].self_attn
    before = attention.q_proj.weight.clone(), attention.k_proj.weight.clone()
    torch.manual_seed(5)
    start_alike(attention, heads=4, key_value_heads=2)
    query, key = attention.q_proj.weight, attention.k_proj.weight
    content = [*range(6, 16), *range(22, 32)]
    positions = [*range(6), *range(16, 22)]
    assert torch.equal(query[content], key[content])
    assert torch.equal(query[[32 + place for place in content]], key[content])
    torch.testing.assert_close(query[positions], 0.1 * before[0][positions])
    torch.testing.assert_close(key[positions], 0.1 * before[1][positions])
    assert torch.equal(query[64:], before[0][64:]) and torch.equal(key[32:], before[1][32:])
    # A token of unit variance scores with itself about the root of the width of a head.
    tokens = torch.randn(997, 128)
    score = ((tokens @ query[:32].T) * (tokens @ key[:32].T)).sum(1).mean() / 32**0.5
    assert float(score) == pytest.approx(32**0.5, rel=0.15)


def test_the_start_changes_nothing_else() -> None:
    plain, alike = build(), build(attention_start="alike")
    other = alike.model.state_dict()
    changed = {
        name
        for name, value in plain.model.state_dict().items()
        if not torch.equal(value, other[name])
    }
    assert changed and all(name.endswith(("q_proj.weight", "k_proj.weight")) for name in changed)


def test_the_patch_basis_of_a_host_is_a_choice() -> None:
    cosine, random = build(), build(patch_basis="random")
    name = "model.visual.patch_embed.proj.weight"
    one, other = cosine.model.state_dict()[name], random.model.state_dict()[name]
    assert not torch.equal(one, other)
    # The first filter is the mean of the patch: all its weights are the same.
    assert float(one[0].std()) < 1e-6 < float(other[0].std())


def test_unknown_layouts_are_refused() -> None:
    from chiasm.core.config import read_config

    with pytest.raises(ConfigError, match="rotary_layout"):
        read_config(ScratchHostConfig, {"rotary_layout": "mixed"}, "host")
