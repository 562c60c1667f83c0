"""What every attention type promises: padding, sizes, direction, streams, types, errors."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise
from typing import Any

import pytest
import torch
from pydantic import ValidationError
from torch import Tensor, nn

from chiasm.core.config import read_config
from chiasm.core.errors import ConfigError, InputError
from chiasm.layers.attention import ATTENTION

WIDTH, HEADS, COUNT, SHORT = 22, 2, 53, 31
SMALL: dict[str, dict[str, Any]] = {
    "dense": {},
    "strided": {"stride": 3},
    "strided and window": {"stride": 3, "window": 2},
    "local_global": {"window": 5, "global_tokens": 3},
    "local": {"window": 5, "global_tokens": 0},
    "cross_memory": {"slots": 7, "segment": 6, "pool": 3},
    "cross_memory, learned": {"slots": 7, "segment": 6, "pool": 2, "learned": 3},
    "performer": {"features": 29},
    "mamba": {"state": 5},
    "hierarchical": {"window": 4},
    "hierarchical, windows": {"levels": 2, "pool": 3, "window": 4, "top": "window"},
    "linear": {},
    "linear, performer": {"mixer": "performer", "features": 29},
    "linear, mamba": {"mixer": "mamba", "state": 5},
}
TYPES = {
    "strided and window": "strided",
    "local": "local_global",
    "cross_memory, learned": "cross_memory",
    "hierarchical, windows": "hierarchical",
    "linear, performer": "linear",
    "linear, mamba": "linear",
}
FLAT = set(SMALL) - {"dense", "strided", "strided and window", "hierarchical"}


def built(name: str, *, causal: bool) -> nn.Module:
    torch.manual_seed(5)
    config = ATTENTION[TYPES.get(name, name)](
        width=WIDTH, heads=HEADS, causal=causal, **SMALL[name]
    )
    module = config.build()
    for parameter in module.parameters():
        # Zero or equal starts would hide what a parameter is wired to.
        nn.init.normal_(parameter, std=0.3)
    return module.double()


def tokens(count: int = COUNT, rows: int = 2, seed: int = 7) -> Tensor:
    return torch.randn(
        rows, count, WIDTH, dtype=torch.double, generator=torch.Generator().manual_seed(seed)
    )


def tensors(state: Any) -> Iterator[Tensor]:
    for entry in state:
        if isinstance(entry, Tensor):
            yield entry
        else:
            yield from tensors(entry)


both_ways = pytest.mark.parametrize("causal", [False, True], ids=["both", "causal"])
every_type = pytest.mark.parametrize("name", SMALL)


def test_every_type_of_the_table_is_tested() -> None:
    assert {TYPES.get(name, name) for name in SMALL} == set(ATTENTION)
    assert len(ATTENTION) == 8


@every_type
@both_ways
def test_a_padded_row_equals_the_short_row_alone(name: str, causal: bool) -> None:
    module, x = built(name, causal=causal), tokens()
    mask = torch.arange(COUNT)[None] < torch.tensor([[COUNT], [SHORT]])
    alone = [module(x[:1]), module(x[1:, :SHORT])]
    x[1, SHORT:] = float("nan")
    y = module(x, mask)
    torch.testing.assert_close(y[:1], alone[0])
    torch.testing.assert_close(y[1:, :SHORT], alone[1])
    assert (y[1, SHORT:] == 0).all()


@every_type
@both_ways
def test_padding_receives_and_gives_no_gradient(name: str, causal: bool) -> None:
    module, x = built(name, causal=causal), tokens().requires_grad_()
    mask = torch.arange(COUNT)[None] < torch.tensor([[COUNT], [SHORT]])
    module(x, mask).square().sum().backward()
    assert x.grad is not None
    assert (x.grad[1, SHORT:] == 0).all()
    padded = {key: p.grad.clone() for key, p in module.named_parameters() if p.grad is not None}
    module.zero_grad()
    loss = module(x[:1]).square().sum() + module(x[1:, :SHORT]).square().sum()
    loss.backward()
    for key, parameter in module.named_parameters():
        if parameter.grad is not None:
            torch.testing.assert_close(padded[key], parameter.grad)


@every_type
@both_ways
def test_a_row_of_padding_alone_gives_no_gradient(name: str, causal: bool) -> None:
    module, x = built(name, causal=causal), tokens().requires_grad_()
    mask = torch.tensor([[True], [False]]).expand(2, COUNT)
    y = module(x, mask)
    y.square().sum().backward()
    assert x.grad is not None
    assert (y[1] == 0).all() and (x.grad[1] == 0).all()
    for parameter in module.parameters():
        assert parameter.grad is None or parameter.grad.isfinite().all()


@every_type
@both_ways
def test_sizes_of_one_change_nothing(name: str, causal: bool) -> None:
    module, x = built(name, causal=causal), tokens()
    ones = torch.ones(2, COUNT, dtype=torch.long)
    torch.testing.assert_close(module(x, None, ones), module(x))
    other = ones.clone()
    other[:, 3:19] = 11
    assert (module(x, None, other) - module(x)).abs().max() > 1e-4


@pytest.mark.parametrize("name", ["dense", "linear", "performer", "linear, performer"])
@both_ways
def test_a_size_counts_as_repeated_tokens(name: str, causal: bool) -> None:
    module, x = built(name, causal=causal), tokens(count=13)
    sizes = torch.tensor([[1, 3, 2, 1, 5, 1, 1, 2, 1, 7, 1, 1, 2]]).expand(2, -1)
    repeated = x.repeat_interleave(sizes[0], 1)
    last = sizes[0].cumsum(0) - 1
    torch.testing.assert_close(module(x, None, sizes), module(repeated)[:, last])


@every_type
def test_a_causal_type_does_not_see_the_future(name: str) -> None:
    module, x = built(name, causal=True), tokens()
    for cut in (1, 17, SHORT):
        for scale in (-1.0, 1000.0):
            changed = x.clone()
            changed[:, cut:] = scale * tokens(seed=11)[:, cut:]
            assert torch.equal(module(changed)[:, :cut], module(x)[:, :cut]), (cut, scale)


@every_type
def test_a_type_that_is_not_causal_sees_the_future(name: str) -> None:
    module, x = built(name, causal=False), tokens()
    changed = x.clone()
    changed[:, 8] = tokens(seed=11)[:, 8]
    assert (module(changed)[:, 5] - module(x)[:, 5]).abs().max() > 1e-9


@every_type
def test_a_stream_equals_the_whole_row(name: str) -> None:
    module, x = built(name, causal=True), tokens()
    sizes = torch.randint(1, 7, (2, COUNT), generator=torch.Generator().manual_seed(3))
    whole = module(x, None, sizes)
    for cuts in ([0, 1, 8, 31, 31, 40, COUNT], list(range(COUNT + 1))):
        state, pieces = module.initial_state(2), []
        for start, stop in pairwise(cuts):
            y, state = module.step(x[:, start:stop], state, sizes[:, start:stop])
            pieces.append(y)
        torch.testing.assert_close(torch.cat(pieces, 1), whole)


@every_type
def test_a_stream_without_sizes_equals_the_whole_row(name: str) -> None:
    module, x = built(name, causal=True), tokens()
    state, pieces = module.initial_state(2), []
    for piece in x.split(7, 1):
        y, state = module.step(piece, state)
        pieces.append(y)
    torch.testing.assert_close(torch.cat(pieces, 1), module(x))


@every_type
def test_the_state_of_flat_types_stops_growing(name: str) -> None:
    module = built(name, causal=True)
    state, held = module.initial_state(1), []
    with torch.no_grad():
        for index in range(30):
            _, state = module.step(tokens(count=6, rows=1, seed=index), state)
            # Storage, not elements: a view of a long row would keep all of it.
            held.append(sum(t.untyped_storage().nbytes() for t in tensors(state)))
    assert (held[-1] == held[14]) is (name in FLAT)
    with torch.no_grad():
        _, state = module.step(tokens(count=204, rows=1), state)
    after = sum(t.untyped_storage().nbytes() for t in tensors(state))
    assert (after == held[-1]) is (name in FLAT)
    assert held[-1] < 40 * held[0]


@every_type
def test_a_stream_needs_a_causal_module(name: str) -> None:
    module = built(name, causal=False)
    causal = built(name, causal=True)
    with pytest.raises(InputError, match=r"not causal.*build it with causal=True"):
        module.step(tokens(count=3), causal.initial_state(2))


@every_type
@both_ways
@pytest.mark.parametrize("kind", [torch.bfloat16, torch.float16])
def test_half_precision_neither_overflows_nor_strays(
    name: str, causal: bool, kind: torch.dtype
) -> None:
    module, x = built(name, causal=causal), tokens() * 3
    for parameter in module.parameters():
        # Weights as large as in trained layers; larger ones leave what float16 holds.
        nn.init.normal_(parameter, std=WIDTH**-0.5)
    exact = module(x)
    near = module.float()(x.to(kind))
    assert near.dtype == kind
    assert (near - exact).norm() / exact.norm() < 0.05
    # Steps of 300 leave what float16 holds; bfloat16 has the range of float32.
    sizes = torch.full((2, COUNT), 300 if kind == torch.bfloat16 else 5)
    half = module.to(kind)(x.to(kind), None, sizes)
    assert half.dtype == kind
    assert half.isfinite().all()


@every_type
@both_ways
def test_every_parameter_learns(name: str, causal: bool) -> None:
    module = built(name, causal=causal)
    module(tokens()).square().sum().backward()
    for key, parameter in module.named_parameters():
        assert parameter.grad is not None, key
        assert parameter.grad.isfinite().all(), key
        # Softmax does not change when all keys move by the same vector.
        assert key.endswith("key.bias") or parameter.grad.abs().max() > 0, key


@every_type
@both_ways
def test_gradients_are_those_of_finite_differences(name: str, causal: bool) -> None:
    module = built(name, causal=causal)
    x = tokens(count=13, rows=1).requires_grad_()
    sizes = torch.tensor([[1, 3, 2, 1, 5, 1, 1, 2, 1, 7, 1, 0, 0]])

    def answer(given: Tensor) -> Tensor:
        return module(given, sizes > 0, sizes)

    assert torch.autograd.gradcheck(answer, (x,), fast_mode=True, atol=1e-4)


@every_type
@both_ways
@pytest.mark.parametrize("count", [0, 1, 2, 5])
def test_the_shortest_rows_are_read(name: str, causal: bool, count: int) -> None:
    y = built(name, causal=causal)(tokens(count=count))
    assert y.shape == (2, count, WIDTH)
    assert y.isfinite().all()


@every_type
def test_autocast_changes_little(name: str) -> None:
    module, x = built(name, causal=True).float(), tokens().float()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        mixed = module(x)
        mixed.float().square().sum().backward()
    exact = module(x)
    assert (mixed - exact).norm() / exact.norm() < 0.1


@every_type
def test_wrong_inputs_are_named(name: str) -> None:
    module, x = built(name, causal=False), tokens()
    with pytest.raises(InputError, match=r"width 22 was given .*\(2, 53, 19\).*tokens, 22\)"):
        module(x[..., :19])
    with pytest.raises(InputError, match=r"mask of shape \(2, 19\).*give one entry a token"):
        module(x, torch.ones(2, 19, dtype=torch.bool))
    with pytest.raises(InputError, match=r"mask of type torch.int64; give bool"):
        module(x, torch.ones(2, COUNT, dtype=torch.long))
    with pytest.raises(InputError, match=r"sizes of shape \(2, 1\)"):
        module(x, None, torch.ones(2, 1))


@pytest.mark.parametrize("name", ATTENTION)
def test_wrong_configurations_are_named(name: str) -> None:
    with pytest.raises(ValidationError, match="7 heads do not divide the width 22"):
        ATTENTION[name](width=22, heads=7)
    with pytest.raises(ConfigError, match="windwo: unknown key"):
        read_config(ATTENTION[name], {"windwo": 3}, "attention")
    config = ATTENTION[name]()
    assert (config.width, config.heads, config.causal) == (768, 12, False)
    with pytest.raises(ValidationError, match="frozen"):
        config.width = 5  # type: ignore[misc]


def test_the_defaults_are_the_documented_ones() -> None:
    def values(name: str) -> dict[str, Any]:
        shared = {"width", "heads", "causal"}
        return {k: v for k, v in ATTENTION[name]().model_dump().items() if k not in shared}

    assert values("strided") == {"stride": 4, "window": 0}
    assert values("local_global") == {"window": 64, "global_tokens": 4}
    assert values("cross_memory") == {"slots": 64, "learned": 0, "segment": 64, "pool": 8}
    assert values("performer") == {"features": 256, "redraw_every": None}
    assert values("mamba") == {
        "state": 16, "expand": 2, "convolution": 4, "shortest": 1e-3, "longest": 0.1
    }  # fmt: skip
    assert values("hierarchical") == {"levels": 3, "pool": 2, "window": 64, "top": "full"}
    assert values("linear")["mixer"] == "elu"
