"""A new eye starts as a no-op, bit for bit, and the start is no dead end."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from chiasm.core.samples import Sample, Turn
from chiasm.data.collate import Collator
from chiasm.data.prompts import Prompter
from chiasm.fusion import FUSIONS
from chiasm.models.dual_encoder import DualEncoder
from chiasm.objectives.tokens import NextTokens
from tests.tiny import TINY_HOSTS, picture
from tests.tiny_eyes import tiny_encoder

SETTINGS: dict[str, list[dict[str, Any]]] = {
    "gated": [
        {"width": 31, "scope": "global"},
        {"width": 31, "scope": "token"},
        {"width": 31, "scope": "channel"},
    ],
    "concat": [{"hidden": 29, "depth": 2}, {"hidden": 29, "depth": 3}],
    "interleave": [{"hidden": 29}],
    "cross_attention": [{"width": 34, "heads": 2, "radius": 1}],
    "mining": [{"side": 1}],
}
CASES = [(name, settings) for name, several in SETTINGS.items() for settings in several]
NAMES = ["-".join(map(str, [name, *settings.values()])) for name, settings in CASES]
# Two sizes of image in one batch, so that the shorter grid is padded.
SAMPLES = (
    Sample(
        "wide",
        (Turn("user", (0, "What is it?")), Turn("assistant", ("a cat",), supervised=True)),
        (picture(61, 83, 1),),
    ),
    Sample(
        "high",
        (Turn("user", (0, "Where?")), Turn("assistant", ("left",), supervised=True)),
        (picture(97, 43, 2),),
    ),
)


def dual(host: Any, fusion: nn.Module | None, encoders: dict[str, Any]) -> DualEncoder:
    collator = Collator(
        Prompter(host.tokenizer, host.image_token),
        host.preparer,
        {name: encoder.transform for name, encoder in encoders.items()},
    )
    return DualEncoder(host=host, encoders=encoders, fusion=fusion, collator=collator)


def build(host: Any, fusion: str, settings: dict[str, Any], *names: str) -> DualEncoder:
    encoders = {name: tiny_encoder(name) for name in names}
    torch.manual_seed(5)
    module = FUSIONS[fusion](**settings).build(
        host_width=host.width, encoder_widths={n: e.width for n, e in encoders.items()}
    )
    return dual(host, module, encoders)


def base_logits(host: Any) -> torch.Tensor:
    model = dual(host, None, {})
    logits = model(model.collator(SAMPLES)).logits
    assert logits is not None
    return logits


def train_step(model: DualEncoder, optimizer: torch.optim.Optimizer) -> None:
    batch = model.collator(SAMPLES)
    optimizer.zero_grad()
    loss = NextTokens().score(model(batch), batch)["tokens"] / batch.supervised_tokens
    loss.backward()
    optimizer.step()


def test_the_cases_cover_every_fusion() -> None:
    assert set(SETTINGS) == set(FUSIONS)


@pytest.mark.parametrize("family", sorted(TINY_HOSTS))
@pytest.mark.parametrize(("fusion", "settings"), CASES, ids=NAMES)
def test_logits_equal_the_host_bit_for_bit(
    family: str, fusion: str, settings: dict[str, Any]
) -> None:
    host = TINY_HOSTS[family]()
    model = build(host, fusion, settings, "dinov2", "siglip")
    batch = model.collator(SAMPLES)
    for mode in (True, False):  # dropout in the gate must not show either
        model.fusion.train(mode)  # type: ignore[union-attr]
        with torch.no_grad():
            assert torch.equal(model(batch).logits, base_logits(host))


@pytest.mark.parametrize(("fusion", "settings"), CASES, ids=NAMES)
def test_the_start_is_no_dead_end(fusion: str, settings: dict[str, Any]) -> None:
    host = TINY_HOSTS["qwen2_5_vl"]()
    model = build(host, fusion, settings, "dinov2", "clip")
    base = base_logits(host).detach()
    assert isinstance(model.fusion, nn.Module)
    model.requires_grad_(False)
    model.fusion.requires_grad_(True)
    optimizer = torch.optim.SGD(model.fusion.parameters(), lr=0.1)
    seen: set[str] = set()
    for step in range(2):
        train_step(model, optimizer)
        for name, parameter in model.fusion.named_parameters():
            if parameter.grad is not None and parameter.grad.abs().max() > 1e-8:
                seen.add(name)
        if step == 0:
            with torch.no_grad():
                moved = model(model.collator(SAMPLES)).logits
            assert moved is not None
            assert not torch.equal(moved, base)
    assert seen == {name for name, _ in model.fusion.named_parameters()}


@pytest.mark.parametrize("family", sorted(TINY_HOSTS))
def test_a_closed_interleaving_has_the_length_of_the_host_and_an_opened_one_more(
    family: str,
) -> None:
    host = TINY_HOSTS[family]()
    model = build(host, "interleave", {"hidden": 29}, "dinov2")
    batch = model.collator(SAMPLES)
    with torch.no_grad():
        closed = model(batch)
        model.fusion.open()  # type: ignore[union-attr, operator]
        opened = model(batch)
    assert closed.logits is not None
    assert opened.logits is not None
    assert opened.logits.shape == closed.logits.shape
    assert not torch.equal(opened.logits, closed.logits)


def test_opened_interleaving_answers_a_batch_as_it_answers_singles() -> None:
    host = TINY_HOSTS["qwen2_5_vl"]()
    model = build(host, "interleave", {"hidden": 29, "opened": True}, "dinov2")
    with torch.no_grad():
        together = model(model.collator(SAMPLES)).logits
        apart = torch.cat([model(model.collator([sample])).logits for sample in SAMPLES])
    torch.testing.assert_close(together, apart, rtol=0, atol=2e-5)


def test_a_token_that_attention_sees_is_never_a_no_op() -> None:
    """Why interleaving starts with absent tokens: zero features do not make a token silent."""
    host = TINY_HOSTS["qwen2_5_vl"]()
    model = build(host, "interleave", {"hidden": 29, "opened": True}, "dinov2")
    base = base_logits(host)
    assert isinstance(model.fusion, nn.Module)
    for parameter in model.fusion.adapters.parameters():  # type: ignore[union-attr]
        nn.init.zeros_(parameter)
    with torch.no_grad():
        logits = model(model.collator(SAMPLES)).logits
    assert logits is not None
    assert (logits - base).abs().max() > 1e-3
