"""Layers mixed by learned weights, and every token of a phrase as a prompt."""

from __future__ import annotations

import pytest
import torch

from chiasm.core.errors import InputError
from chiasm.heads.text_layers import TextLayers, TextLayersConfig, pad_prompts


def tiny() -> TextLayers:
    torch.manual_seed(0)
    return TextLayersConfig(layers=3, width=7, prompt_width=5).build()


def test_all_layers_weigh_the_same_at_the_start() -> None:
    states = torch.randn(3, 11, 7)
    torch.testing.assert_close(tiny().mix(states), states.mean(dim=0))


def test_weights_are_a_softmax() -> None:
    layers = tiny()
    states = torch.randn(3, 11, 7)
    with torch.no_grad():
        layers.weights.copy_(torch.tensor([0.0, 1.0, 3.0]))
    shares = torch.tensor([1.0, 2.718281828, 20.08553692]) / 23.80381875
    torch.testing.assert_close(layers.mix(states), (shares[:, None, None] * states).sum(0))


def test_each_phrase_keeps_its_tokens() -> None:
    layers = tiny()
    states = [torch.randn(3, count, 7) for count in (2, 1, 5)]
    together = layers.predict(states)
    assert [tuple(one.shape) for one in together] == [(2, 5), (1, 5), (5, 5)]
    for one, own in zip(together, states, strict=True):
        # Measured 0 to 6e-8.
        torch.testing.assert_close(one, layers(own), rtol=1e-6, atol=1e-6)
    assert layers.predict([]) == []


def test_weights_and_projection_learn() -> None:
    layers = tiny()
    layers(torch.randn(3, 11, 7)).square().sum().backward()
    assert all(bool(p.grad.any()) for p in layers.parameters() if p.grad is not None)
    assert layers.weights.grad is not None


def test_padding_says_which_prompts_are_real() -> None:
    padded, real = pad_prompts([torch.ones(2, 5), torch.ones(3, 5)])
    assert real.tolist() == [[True, True, False], [True, True, True]]
    assert torch.equal(padded.sum(-1), torch.tensor([[5.0, 5, 0], [5, 5, 5]]))


def test_a_phrase_without_tokens_is_named() -> None:
    with pytest.raises(InputError, match="phrase 1 of the batch has no token"):
        tiny().predict([torch.randn(3, 2, 7), torch.randn(3, 0, 7)])


def test_other_layers_are_refused() -> None:
    with pytest.raises(InputError, match=r"\(4, 2, 7\) for 3 layers"):
        tiny().predict([torch.randn(4, 2, 7)])


def test_weights_of_a_half_type_take_states_of_any() -> None:
    states = torch.randn(3, 11, 7)
    half = tiny().to(torch.bfloat16)(states)
    assert half.dtype == torch.bfloat16
    # Measured 0.004 of prompts up to 0.9: the eight bits of bfloat16.
    torch.testing.assert_close(half.float(), tiny()(states), rtol=0, atol=0.02)
