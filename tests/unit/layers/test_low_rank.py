"""Adapters by name on any module: identity start, PEFT's files, mixed batches, merging."""

from __future__ import annotations

import copy
from collections import OrderedDict
from pathlib import Path

import pytest
import torch
from peft import LoraConfig, PeftModel
from torch import Tensor, nn

from chiasm.core.batch import IGNORE
from chiasm.core.errors import CheckpointError, ConfigError, InputError, UnknownNameError
from chiasm.layers.attention import ATTENTION
from chiasm.layers.lora import lora_modules
from chiasm.layers.low_rank import (
    LowRankAdapters,
    LowRankConfig,
    add_low_rank,
    load_low_rank,
)
from chiasm.layers.routing import Routing

NAMES = ("sports", "tutorials", "news", "general")


def small(width: int = 11) -> nn.Module:
    torch.manual_seed(3)
    layers = {"query": nn.Linear(width, 13), "act": nn.GELU(), "value": nn.Linear(13, 7)}
    return nn.Sequential(OrderedDict(layers)).eval()


def shake(adapters: LowRankAdapters) -> None:
    """Move the adapters off their start."""
    torch.manual_seed(5)
    with torch.no_grad():
        for module in adapters.modules:
            for value in module.parameters():
                value.add_(0.1 * torch.randn_like(value))


def shaken(module: nn.Module, **options: object) -> LowRankAdapters:
    adapters = add_low_rank(module, LowRankConfig(rank=3, **options), NAMES)
    shake(adapters)
    return adapters


def tokens(*shape: int, seed: int = 1) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def known(*indices: int) -> Routing:
    return Routing.known(torch.tensor(indices), len(NAMES))


def test_rank_8_on_one_layer_of_768_by_768_holds_12288_and_four_domains_49152() -> None:
    layer = nn.Sequential(OrderedDict(query=nn.Linear(768, 768)))
    adapters = LowRankConfig().build(layer, NAMES)
    assert adapters.parameters == dict.fromkeys(NAMES, 12_288)
    assert sum(p.numel() for module in adapters.modules for p in module.parameters()) == 49_152


@pytest.mark.parametrize("training", [False, True])
def test_fresh_adapters_change_no_bit(training: bool) -> None:
    module, x = small().train(training), tokens(4, 5, 11)
    before = module(x)
    adapters = add_low_rank(module, LowRankConfig(rank=3), NAMES)
    soft = Routing(torch.full((4, 4), 0.25))
    for routing in (known(0, 1, 2, 3), soft):
        with adapters.route(routing):
            assert torch.equal(module(x), before)
    adapters.select("news")
    assert torch.equal(module(x), before)
    shake(adapters)
    assert not torch.equal(module(x), before)
    adapters.select(None)
    assert torch.equal(module(x), before)


def test_adapters_train_and_nothing_else_changes() -> None:
    module = small()
    module.query.requires_grad_(False)
    adapters = add_low_rank(module, LowRankConfig(), NAMES)
    assert not module.query.base_layer.weight.requires_grad
    assert module.value.base_layer.weight.requires_grad
    assert all(p.requires_grad for part in adapters.modules for p in part.parameters())
    assert not any(part.training for part in adapters.modules)


@pytest.mark.parametrize("name", NAMES)
def test_peft_loads_ours(name: str, tmp_path: Path) -> None:
    module, x = small(), tokens(3, 5, 11)
    adapters = shaken(module)
    adapters.save(tmp_path)
    assert sorted(path.name for path in (tmp_path / name).iterdir() if path.suffix != ".md") == [
        "adapter_config.json",
        "adapter_model.safetensors",
    ]
    theirs = PeftModel.from_pretrained(small(), str(tmp_path / name)).eval()
    adapters.select(name)
    assert torch.equal(theirs(x), module(x))
    with adapters.route(known(*[NAMES.index(name)] * 3)):
        assert torch.equal(theirs(x), module(x))


def test_we_load_what_peft_wrote(tmp_path: Path) -> None:
    x = tokens(3, 5, 11)
    settings = LoraConfig(r=5, lora_alpha=7, target_modules=["value"], init_lora_weights=False)
    theirs = PeftModel(small(), settings).eval()
    theirs.save_pretrained(str(tmp_path))
    module = small()
    adapters = load_low_rank(module, {"news": tmp_path})
    assert not torch.equal(theirs(x), module(x))
    adapters.select("news")
    assert torch.equal(theirs(x), module(x))
    assert adapters.parameters == {"news": 5 * (13 + 7)}
    assert not any(p.requires_grad for part in adapters.modules for p in part.parameters())
    again = load_low_rank(small(), {"news": tmp_path}, trainable=True)
    assert all(p.requires_grad for part in again.modules for p in part.parameters())


def test_adapters_of_different_layers_and_ranks_stand_side_by_side(tmp_path: Path) -> None:
    x = tokens(2, 5, 11)
    first, second = small(), small()
    one = add_low_rank(first, LowRankConfig(rank=2, targets=("query",)), ["a"])
    two = add_low_rank(second, LowRankConfig(rank=3, targets=("value",)), ["b"])
    for adapters, folder in ((one, "one"), (two, "two")):
        shake(adapters)
        adapters.save(tmp_path / folder)
    one.select("a")
    two.select("b")
    module = small()
    both = load_low_rank(module, {"a": tmp_path / "one/a", "b": tmp_path / "two/b"})
    with both.route(Routing.known(torch.tensor([1, 0]), 2)):
        mixed = module(x)
    torch.testing.assert_close(mixed[0], second(x)[0])
    torch.testing.assert_close(mixed[1], first(x)[1])


def test_rows_of_several_domains_share_a_batch() -> None:
    module, x = small(), tokens(5, 3, 11)
    adapters = shaken(module)
    indices = (2, 0, IGNORE, 2, 1)
    with adapters.route(known(*indices)):
        together = module(x)
    for row, index in enumerate(indices):
        adapters.select(None if index == IGNORE else NAMES[index])
        # Products of 5 x 3 and of 3 tokens may be summed in another order: measured 2e-7.
        torch.testing.assert_close(together[row], module(x[row : row + 1])[0], atol=1e-6, rtol=0)


def test_rows_of_several_domains_equal_single_rows_bit_for_bit() -> None:
    # At this size the linear layers themselves do not depend on how many rows there are.
    torch.manual_seed(0)
    module = nn.Sequential(OrderedDict(a=nn.Linear(48, 48), b=nn.Linear(48, 32))).eval()
    x = tokens(5, 64, 48)
    assert torch.equal(module(x), torch.cat([module(row[None]) for row in x]))
    adapters = shaken(module)
    indices = (3, 0, IGNORE, 3, 1)
    with adapters.route(known(*indices)):
        together = module(x)
    for row, index in enumerate(indices):
        with adapters.route(known(index)):
            assert torch.equal(together[row], module(x[row : row + 1])[0])


def test_a_batch_of_several_domains_equals_pefts_own() -> None:
    module, x = small(), tokens(4, 5, 11)
    adapters = shaken(module)
    twin = PeftModel(small(), LoraConfig(r=3, lora_alpha=16, target_modules=r"query|value"), "news")
    twin.add_adapter("sports", twin.peft_config["news"])
    twin.eval()
    for ours, theirs in ((module.query, twin.model.query), (module.value, twin.model.value)):
        for name in ("news", "sports"):
            theirs.lora_A[name].load_state_dict(ours.lora_A[name].state_dict())
            theirs.lora_B[name].load_state_dict(ours.lora_B[name].state_dict())
    with adapters.route(known(0, 2, IGNORE, 0)):
        mixed = module(x)
    names = ["sports", "news", "__base__", "sports"]
    assert torch.equal(mixed, twin(x, adapter_names=names))


def test_shares_mix_updates_of_one_layer() -> None:
    module = nn.Sequential(OrderedDict(query=nn.Linear(11, 13)))
    adapters, x = shaken(module.eval()), tokens(2, 5, 11)
    base = module(x)
    shares = torch.tensor([[0.1, 0.2, 0.3, 0.4], [0.0, 0.5, 0.5, 0.0]])
    with adapters.route(Routing(shares)):
        mixed = module(x)
    expected = base.clone()
    for place, name in enumerate(NAMES):
        layer = module.query
        update = (16 / 3) * (layer.lora_B[name].weight @ layer.lora_A[name].weight)
        expected += shares[:, place, None, None] * (x @ update.T)
    torch.testing.assert_close(mixed, expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize("attention", sorted(ATTENTION))
def test_every_adapter_of_every_attention_type_is_used(attention: str) -> None:
    """A layer that reads a weight past its module would leave its adapter without gradient."""
    torch.manual_seed(7)
    module = ATTENTION[attention](width=22, heads=2).build()
    adapters = shaken(module, dropout=0.0)
    mask = torch.ones(3, 17, dtype=torch.bool)
    mask[1, 11:] = False
    with adapters.route(known(0, 2, 0)):
        module(tokens(3, 17, 22), mask).square().sum().backward()
    for part in adapters.modules:
        for name, value in part.named_parameters():
            used = name.split(".")[0] in ("sports", "news")
            assert (value.grad is not None and bool(value.grad.any())) == used, name


def test_merging_one_adapter_equals_running_it() -> None:
    module, x = small(), tokens(3, 5, 11)
    keys, plain = set(module.state_dict()), copy.deepcopy(module)
    adapters = shaken(module)
    adapters.select("news")
    expected = module(x).detach()
    adapters.merge("news")
    assert set(module.state_dict()) == keys
    torch.testing.assert_close(module(x), expected, atol=1e-6, rtol=0)
    assert not torch.allclose(module(x), plain(x), atol=0.01)
    assert not lora_modules(module)
    for call in (adapters.unload, lambda: adapters.save("x"), lambda: adapters.merge("news")):
        with pytest.raises(InputError, match="already merged or removed"):
            call()


def test_unloading_leaves_no_trace() -> None:
    module, x = small(), tokens(3, 5, 11)
    keys, before = set(module.state_dict()), module(x)
    adapters = shaken(module)
    adapters.select("news")
    adapters.unload()
    assert set(module.state_dict()) == keys
    assert torch.equal(module(x), before)
    add_low_rank(module, LowRankConfig(), ["again"])


def test_whole_names_are_meant() -> None:
    inner = nn.Sequential(OrderedDict(out=nn.Linear(3, 3)))
    module = nn.Sequential(OrderedDict(out=nn.Linear(3, 3), inner=inner, act=nn.GELU()))
    adapters = add_low_rank(module, LowRankConfig(rank=2, targets=("out",)), ["a"])
    assert adapters.parameters == {"a": 2 * 2 * 6}


def test_what_cannot_be_adapted_is_said() -> None:
    with pytest.raises(ConfigError, match=r"'key'; known: query, value"):
        add_low_rank(small(), LowRankConfig(targets=("key", "query")), NAMES)
    with pytest.raises(InputError, match="Linear has no linear layer inside"):
        add_low_rank(nn.Linear(3, 3), LowRankConfig(), NAMES)
    with pytest.raises(ConfigError, match=r"(?s)'a\.b'; allowed: letters.*'default'.*'x' twice"):
        add_low_rank(small(), LowRankConfig(), ["a.b", "default", "x", "x"])
    with pytest.raises(ConfigError, match="none given"):
        add_low_rank(small(), LowRankConfig(), [])
    module = small()
    adapters = add_low_rank(module, LowRankConfig(), NAMES)
    with pytest.raises(InputError, match="already carries adapters"):
        add_low_rank(module, LowRankConfig(), NAMES)
    with pytest.raises(UnknownNameError, match=r"unknown adapter 'new'.*Did you mean 'news'"):
        adapters.select("new")
    with pytest.raises(InputError, match=r"5 rows and 4 choices .* a routing of 2 rows and 4"):
        with adapters.route(known(0, 1)):
            module(tokens(5, 3, 11))


def test_an_adapter_that_does_not_fit_is_refused_and_taken_off(tmp_path: Path) -> None:
    shaken(small()).save(tmp_path)
    module, x = nn.Sequential(OrderedDict(query=nn.Linear(11, 13))), tokens(2, 3, 11)
    before = module(x)
    with pytest.raises(CheckpointError, match=r"does not fit this model: . keys missing, 2 unexp"):
        load_low_rank(module, {"news": tmp_path / "news"})
    assert torch.equal(module(x), before)
    with pytest.raises(CheckpointError, match=r"(?s)does not fit: .*size mismatch"):
        load_low_rank(small(width=17), {"news": tmp_path / "news"})
    with pytest.raises(CheckpointError, match=r"holds no adapter: adapter_config\.json, "):
        load_low_rank(small(), {"news": tmp_path / "new"})
