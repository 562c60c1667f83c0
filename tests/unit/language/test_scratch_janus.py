"""A Janus host from scratch, and another tokenizer of pictures for it."""

from __future__ import annotations

import copy

import pytest
import torch
from PIL import Image

from chiasm.core.config import read_config
from chiasm.core.errors import ConfigError
from chiasm.encoders.codebook import CodebookConfig
from chiasm.language.host import Host
from chiasm.language.late import with_late_projector
from chiasm.language.painter import Painter, give_tokenizer
from chiasm.language.scratch_janus import ScratchJanusConfig
from chiasm.recipes.host_choice import HostChoice
from tests.tiny_hosts import build_tiny
from tests.tiny_pairs import tiny_pair_model


def test_sizes_are_those_asked_for() -> None:
    host = ScratchJanusConfig(
        family="janus", vocabulary=307, width=34, heads=1, layers=2, vision_width=22, vision_heads=2
    ).build(["what is red", "a ring"])
    config = host.model.config
    assert (config.text_config.vocab_size, host.width) == (307, 34)
    assert (config.vision_config.hidden_size, host.model.model.vision_model.config.patch_size) == (
        22,
        8,
    )
    prepared = host.preparer.prepare([Image.new("RGB", (50, 64))])
    assert prepared.token_counts == (64,)
    ids = host.tokenizer(host.image_text(2), add_special_tokens=False)["input_ids"]
    assert ids[1:-1] == [host.image_token_id] * 2
    assert len(set(ids)) == 3


def test_the_same_seed_gives_the_same_host() -> None:
    one, same, other = (
        ScratchJanusConfig(family="janus", vocabulary=300, width=34, heads=1, seed=seed).build(
            ["a"]
        )
        for seed in (3, 3, 4)
    )
    assert one.identity["sha256"] == same.identity["sha256"] != other.identity["sha256"]


def test_all_faults_of_sizes_are_told_at_once() -> None:
    values = {
        "scratch": {"family": "janus", "width": 34, "heads": 4, "side": 63, "vision_heads": 3}
    }
    with pytest.raises(ConfigError) as caught:
        read_config(HostChoice, values, "host")
    told = str(caught.value)
    for piece in ("width 34", "vision_width 128", "side 63", "num_patches 8 is not side / patch"):
        assert piece in told


def test_the_family_tells_the_forms_apart() -> None:
    janus = read_config(HostChoice, {"scratch": {"family": "janus", "width": 64}}, "host")
    plain = read_config(HostChoice, {"scratch": {"width": 64, "heads": 2}}, "host")
    assert isinstance(janus.scratch, ScratchJanusConfig)
    assert type(plain.scratch).__name__ == "ScratchHostConfig"
    again = HostChoice.model_validate(janus.model_dump(exclude_defaults=True))
    assert again == janus
    with pytest.raises(ConfigError, match="merge"):
        read_config(HostChoice, {"scratch": {"family": "janus", "merge": 2}}, "host")


ARCHITECTURE = {
    "base_channels": 32,
    "channel_multiplier": [1, 1],
    "num_res_blocks": 1,
    "latent_channels": 32,
    "embed_dim": 5,
    "num_embeddings": 41,
    "num_patches": 3,
}


def test_another_tokenizer_takes_the_place_of_the_own() -> None:
    host: Host = copy.deepcopy(tiny_pair_model().host)
    before = host.identity["sha256"]
    book = CodebookConfig(architecture=ARCHITECTURE).build()
    give_tokenizer(host, book.model)
    painter = Painter.of(host)
    assert painter.codes == 41
    assert host.parts["tokenizer"] is book.model
    assert host.identity["sha256"] != before
    states = painter.embed(torch.randint(0, 41, (2, 9)))
    assert states.shape == (2, 9, host.width)
    assert painter.score(states).shape == (2, 9, 41)
    other = CodebookConfig(architecture={**ARCHITECTURE, "num_patches": 4}).build()
    with pytest.raises(ConfigError, match="4 codes along a side for a host of 3 tokens"):
        give_tokenizer(host, other.model)
    with pytest.raises(ConfigError, match="draws no pictures"):
        give_tokenizer(build_tiny("deepseek_vl"), book.model)


def test_parts_that_begin_at_random_do_not_tell_hosts_apart() -> None:
    """Their numbers are others on another processor; the host that was loaded is the same."""
    found = []
    for seed in (0, 1):
        host: Host = copy.deepcopy(tiny_pair_model().host)
        book = CodebookConfig(architecture=ARCHITECTURE).build()
        for value in book.model.state_dict().values():
            value.zero_()
        torch.manual_seed(seed)
        give_tokenizer(host, book.model)
        found.append((host.identity["sha256"], Painter.of(host).embeddings.weight.sum().item()))
    assert found[0][0] == found[1][0]
    assert found[0][1] != found[1][1]


def test_a_late_projector_says_the_same() -> None:
    host = copy.deepcopy(build_tiny("janus"))
    batch = host.preparer.prepare([Image.new("RGB", (40, 40), "red")])
    with torch.no_grad():
        early = host.encode(batch.tensors, batch.geometries).tokens.features
        late = with_late_projector(host)
        seen = late.encode(batch.tensors, batch.geometries).tokens
        assert seen.width == late.token_width != late.width
        assert torch.equal(late.adapter.project(late.model, seen.features), early)
    other = build_tiny("deepseek_vl")
    adapter = other.adapter
    assert with_late_projector(other).adapter is adapter
