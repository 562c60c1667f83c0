"""Hosts of tiles, padded squares and mined towers: what is added starts as a no-op, and learns."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from chiasm.core.samples import Sample, Turn
from chiasm.data.collate import Collator
from chiasm.data.prompts import Prompter
from chiasm.encoders import ENCODERS
from chiasm.fusion import FUSIONS
from chiasm.language.host import Host
from chiasm.models.dual_encoder import DualEncoder
from chiasm.models.dual_encoder_modes import parts_to_train
from chiasm.objectives.tokens import NextTokens
from tests.tiny import picture
from tests.tiny_eyes import tiny_encoder
from tests.tiny_hosts import NEW_HOSTS, build_tiny

FAMILIES = [*sorted(NEW_HOSTS), "hpt", "mgm"]
CONVNEXT = {"hidden_sizes": [5, 7], "depths": [1, 2], "num_stages": 2, "patch_size": 3}
SETTINGS: dict[str, dict[str, Any]] = {
    "gated": {"width": 31},
    "interleave": {"hidden": 29},
    "mining": {"side": 2},
}
SAMPLES = (
    Sample(
        "two",
        (
            Turn("user", (0, "or", 1, "What is it?")),
            Turn("assistant", ("a cat",), supervised=True),
        ),
        (picture(61, 83, 1), picture(23, 20, 3)),
    ),
    Sample("none", (Turn("user", ("Hm?",)), Turn("assistant", ("yes",), supervised=True))),
    Sample(
        "high",
        (Turn("user", (0, "Where?")), Turn("assistant", ("left",), supervised=True)),
        (picture(149, 41, 2),),
    ),
)


def dual(host: Host, fusion: str | None) -> DualEncoder:
    encoders: dict[str, Any] = {}
    if fusion == "mining":
        torch.manual_seed(3)
        encoders = {"fine": ENCODERS["convnext"](architecture=CONVNEXT, oversample=2).build()}
    elif fusion:
        encoders = {"dinov2": tiny_encoder("dinov2")}
    module = None
    if fusion:
        torch.manual_seed(5)
        module = FUSIONS[fusion](**SETTINGS[fusion]).build(
            host_width=host.token_width, encoder_widths={n: e.width for n, e in encoders.items()}
        )
    collator = Collator(
        Prompter(host.tokenizer, host.image_token, host.image_text),
        host.preparer,
        {name: encoder.transform for name, encoder in encoders.items()},
    )
    return DualEncoder(host=host, encoders=encoders, fusion=module, collator=collator)


@pytest.fixture(scope="module", params=FAMILIES)
def host(request: pytest.FixtureRequest) -> Host:
    return build_tiny(request.param)


@pytest.mark.parametrize("fusion", sorted(SETTINGS))
def test_logits_equal_the_host_bit_for_bit(host: Host, fusion: str) -> None:
    bare, model = dual(host, None), dual(host, fusion)
    with torch.no_grad():
        assert torch.equal(
            model(model.collator(SAMPLES)).logits, bare(bare.collator(SAMPLES)).logits
        )


@pytest.mark.parametrize("fusion", sorted(SETTINGS))
def test_a_step_of_the_fusion_moves_the_answer(host: Host, fusion: str) -> None:
    model = dual(host, fusion)
    assert isinstance(model.fusion, nn.Module)
    batch = model.collator(SAMPLES)
    before = model(batch)
    assert before.logits is not None
    for parameter in host.parameters():
        parameter.requires_grad_(False)
    NextTokens().score(before, batch)["tokens"].backward()
    with torch.no_grad():
        for parameter in model.fusion.parameters():
            if parameter.grad is not None:
                parameter.sub_(parameter.grad)
        moved = model(batch).logits
    assert not torch.equal(moved, before.logits)


def test_opened_interleaving_stands_in_the_fine_cells_only(host: Host) -> None:
    model = dual(host, "interleave")
    model.fusion.open()  # type: ignore[union-attr, operator]
    with torch.no_grad():
        batch = model.collator(SAMPLES)
        spliced = model._look(batch)[0]
        fine = sum(geometry.count for geometry in batch.geometries)
        assert int(spliced.attention_mask.sum()) == int(batch.attention_mask.sum()) + fine
        assert torch.isfinite(host.read(spliced)[spliced.attention_mask == 1]).all()


def test_generation_answers_a_batch_as_it_answers_singles(host: Host) -> None:
    model = dual(host, "mining")
    with torch.no_grad():
        for parameter in model.fusion.parameters():  # type: ignore[union-attr]
            parameter.add_(torch.randn_like(parameter) * 0.1)
        together = model.generate(
            model.collator.collate(SAMPLES, generation=True), max_new_tokens=5
        )
        alone = [
            model.generate(model.collator.collate([sample], generation=True), max_new_tokens=5)[0]
            for sample in SAMPLES
        ]
    assert together == alone


def test_mgm_mines_before_its_projector() -> None:
    host = build_tiny("mgm")
    assert (host.token_width, host.width) == (34, 42)
    plain = build_tiny("llava, padded")
    batch = dual(host, None).collator(SAMPLES)
    with torch.no_grad():
        late = host.encode(batch.host_images, batch.geometries).tokens
        early = plain.encode(batch.host_images, batch.geometries).tokens
        assert late.width == 34
        projected = host.adapter.project(host.model, late.features)
        assert torch.equal(projected, early.features)


def test_what_only_draws_never_trains() -> None:
    model = dual(build_tiny("janus"), "gated")
    drawing = {"host_tokenizer", "host_generation"}
    assert drawing < set(model.parts)
    for mode in (None, "full", "llm_only"):
        assert not drawing & parts_to_train(tuple(model.parts), mode)
