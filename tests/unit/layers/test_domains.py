"""Domains on a module: chosen, read through, refined; what is wrong is said at once."""

from __future__ import annotations

from collections import OrderedDict
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from chiasm.core.batch import IGNORE
from chiasm.core.config import read_config
from chiasm.core.errors import ConfigError, InputError
from chiasm.layers.domains import DOMAIN_NAMES, Domains, DomainsConfig

WIDTH = 7


def small() -> nn.Module:
    torch.manual_seed(3)
    layers = {"first": nn.Linear(WIDTH, 13), "act": nn.GELU(), "second": nn.Linear(13, WIDTH)}
    return nn.Sequential(OrderedDict(layers)).eval()


def build(module: nn.Module, **options: Any) -> Domains:
    torch.manual_seed(5)
    names = options.pop("names", DOMAIN_NAMES)
    return DomainsConfig(**options).build(module=module, width=WIDTH, names=names).eval()


def shake(domains: Domains) -> None:
    modules = [*(domains.adapters.modules if domains.adapters else ()), domains]
    with torch.no_grad():
        for module in modules:
            for value in module.parameters():
                value.add_(0.2 * torch.randn_like(value))


def through(module: nn.Module, domains: Domains, x: Tensor, **options: Any) -> Tensor:
    routing = domains.choose(x, **options)
    with domains.through(routing):
        states = module(x)
    return domains.refine(states, routing)


def tokens() -> Tensor:
    return torch.randn(5, 11, WIDTH, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize(
    ("experts", "adapters"),
    [({"hidden": 17}, None), (None, {"rank": 2}), ({"hidden": 17}, {"rank": 2})],
)
@pytest.mark.parametrize("router", [None, {}, {"top": 2, "hidden": 5}])
def test_fresh_domains_change_no_bit_and_taught_ones_differ_by_row(
    experts: Any, adapters: Any, router: Any
) -> None:
    module, x = small(), tokens()
    before = module(x)
    domains = build(module, experts=experts, adapters=adapters, router=router)
    known = torch.tensor([0, 1, IGNORE, 3, 3])
    assert torch.equal(through(module, domains, x, known=known), before)
    shake(domains)
    after = through(module, domains, x, known=known)
    same = [torch.equal(one, other) for one, other in zip(after, before, strict=True)]
    assert same == [False, False, router is None, False, False]
    if domains.adapters is None:
        assert torch.equal(module(x), before)
        return
    with pytest.raises(InputError, match=r"without a route through the adapters sports, tutorials"):
        module(x)
    domains.adapters.select(None)
    assert torch.equal(module(x), before)


def test_padding_stays_zero() -> None:
    domains = build(small(), adapters=None, experts={"hidden": 17})
    shake(domains)
    x, mask = tokens(), torch.arange(11).expand(5, 11) < 9
    refined = domains.refine(x, domains.choose(x, mask), mask)
    assert not bool(refined[:, 9:].any()) and bool(refined[:, :9].all())


def test_all_learns() -> None:
    module = small().requires_grad_(False)
    domains = build(module, experts={"hidden": 17}, adapters={"rank": 2, "dropout": 0.0})
    assert domains.adapters is not None
    shake(domains)
    through(module, domains, tokens()).square().sum().backward()
    for part in (*domains.adapters.modules, domains):
        for name, value in part.named_parameters():
            assert value.grad is not None and bool(value.grad.any()), name
    assert all(value.grad is None for value in (module.first.weight, module.second.bias))


def test_any_names() -> None:
    assert build(small()).names == DOMAIN_NAMES == ("sports", "tutorials", "news", "general")
    domains = build(small(), names=("surgery", "endoscopy"), router=None)
    assert domains.adapters is not None and domains.adapters.names == ("surgery", "endoscopy")


def test_what_is_wrong_is_said() -> None:
    with pytest.raises(InputError, match=r"\(sports, .*\) have no router, and the rows do not say"):
        build(small(), router=None).choose(tokens())
    with pytest.raises(ConfigError, match=r"(?s)'b c'; allowed: letters.*'a' twice"):
        build(small(), names=("a", "a", "b c"))
    with pytest.raises(InputError, match="top 5 of 4 choices"):
        build(small(), router={"top": 5})
    with pytest.raises(ConfigError, match="without adapters or experts differ in nothing"):
        read_config(DomainsConfig, {"adapters": None}, "domains")


def test_the_router_weighs_tokens_by_their_sizes_and_reads_no_padding() -> None:
    domains, x = build(small()), tokens()
    shake(domains)
    expected = domains.choose(x).weights
    padded = torch.cat([x, 9 * tokens()[:, :2].flip(0)], 1)
    mask = torch.arange(13).expand(5, 13) < 11
    torch.testing.assert_close(domains.choose(padded, mask).weights, expected)
    merged = torch.cat([x[:, :4].mean(1, keepdim=True), x[:, 4:]], 1)
    sizes = torch.tensor([4] + [1] * 7).expand(5, 8)
    torch.testing.assert_close(domains.choose(merged, None, sizes).weights, expected)
    assert not torch.allclose(domains.choose(padded).weights, expected, atol=1e-3)
    assert not torch.allclose(domains.choose(merged).weights, expected, atol=1e-3)
