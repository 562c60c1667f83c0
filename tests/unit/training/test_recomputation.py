"""Recomputed layers give the gradients of kept ones, in parts that train and in frozen ones."""

from collections.abc import Mapping
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from transformers import LlamaConfig, LlamaModel

from chiasm.core.errors import ConfigError
from chiasm.layers.attention import ATTENTION
from chiasm.layers.domains import DomainsConfig
from chiasm.layers.reader import Reader, ReaderConfig
from chiasm.training.freezing import freeze_all_but
from chiasm.training.recomputation import recompute_layers


class Deep(nn.Module):
    """A trained embedding below a frozen stack: gradients pass through the stack."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(3)
        self.below = nn.Embedding(13, 22)
        self.stack = LlamaModel(
            LlamaConfig(
                vocab_size=17,
                hidden_size=22,
                intermediate_size=29,
                num_hidden_layers=3,
                num_attention_heads=11,
                num_key_value_heads=11,
                attention_dropout=0.0,
                use_cache=False,
            )
        )

    @property
    def parts(self) -> Mapping[str, nn.Module]:
        return {"below": self.below, "stack": self.stack}

    @property
    def new_parts(self) -> frozenset[str]:
        return frozenset()

    @property
    def identity(self) -> Mapping[str, Any]:
        return {}

    def probe(self) -> Mapping[str, Tensor]:
        return {}

    def forward(self, ids: Tensor) -> Tensor:
        return self.stack(inputs_embeds=self.below(ids)).last_hidden_state


def gradients(model: Deep) -> dict[str, Tensor]:
    model(torch.arange(10).view(2, 5)).square().sum().backward()
    return {name: p.grad for name, p in model.named_parameters() if p.grad is not None}


def calls_of_layers(model: Deep) -> list[int]:
    calls: list[int] = []
    for layer in model.stack.layers:
        layer.self_attn.register_forward_hook(lambda *_: calls.append(1))
    return calls


@pytest.mark.parametrize("trains", [{"below"}, {"below", "stack"}])
def test_gradients_are_the_same(trains: set[str]) -> None:
    kept, recomputed = Deep(), Deep()
    for model in (kept, recomputed):
        freeze_all_but(model, trains)  # type: ignore[arg-type]
    assert recompute_layers(recomputed) == 3
    calls, again = calls_of_layers(kept), calls_of_layers(recomputed)
    expected, found = gradients(kept), gradients(recomputed)
    assert len(calls) == 3 and len(again) == 6
    assert expected.keys() == found.keys()
    assert all(torch.equal(expected[name], found[name]) for name in expected)


def test_what_a_frozen_layer_holds_stays_in_evaluation_mode() -> None:
    model = Deep()
    freeze_all_but(model, {"below"})  # type: ignore[arg-type]
    recompute_layers(model)
    layer = model.stack.layers[0]
    assert layer.training and not layer.mlp.training and not layer.self_attn.training


def test_a_model_without_such_layers() -> None:
    with pytest.raises(ConfigError, match="Linear has no layer of transformers and no reader"):
        recompute_layers(nn.Linear(3, 5))


def reader(**choices: Any) -> Reader:
    torch.manual_seed(5)
    return ReaderConfig(heads=2, depth=3, **choices).build(width=22)


def read(reader: Reader) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(7)
    x = torch.randn(2, 13, 22, generator=generator)
    times, places = torch.arange(13.0).expand(2, -1), torch.rand(2, 13, 2, generator=generator)
    sizes = torch.randint(1, 5, (2, 13), generator=generator)
    mask = torch.arange(13) < torch.tensor([[13], [7]])
    reader(x, times, places, sizes, mask).square().sum().backward()
    return {name: p.grad for name, p in reader.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("attention", sorted(ATTENTION))
def test_readers_of_every_attention_are_computed_again(attention: str) -> None:
    kept, recomputed = reader(attention=attention), reader(attention=attention)
    assert recompute_layers(recomputed) == 3
    calls: list[int] = []
    for mixer in recomputed.mixers:
        mixer.register_forward_hook(lambda *_: calls.append(1))
    expected, found = read(kept), read(recomputed)
    assert len(calls) == 6
    assert expected.keys() == found.keys() == dict(kept.named_parameters()).keys()
    for name in expected:
        torch.testing.assert_close(found[name], expected[name], rtol=1e-5, atol=1e-6)


def test_random_features_that_change_cannot_be_computed_again() -> None:
    model = reader(attention="performer", options={"redraw_every": 3})
    with pytest.raises(ConfigError, match="redraw_every=3"):
        recompute_layers(model)


def test_layers_whose_rows_have_domains_cannot_be_computed_again() -> None:
    inner = reader()
    domains = DomainsConfig().build(module=inner, width=22)
    with pytest.raises(ConfigError, match="an adapter for each domain"):
        recompute_layers(nn.ModuleList([inner, domains]))
