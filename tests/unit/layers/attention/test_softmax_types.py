"""The softmax types against one masked reference, and their exact limits against dense."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from chiasm.core.errors import InputError
from chiasm.layers.attention import ATTENTION
from chiasm.layers.attention.cross_memory import CrossMemoryAttentionConfig, pool_rows
from chiasm.layers.attention.dense import softmax_attention
from chiasm.layers.attention.hierarchical import HierarchicalAttentionConfig
from chiasm.layers.attention.local_global import local_global_attention
from chiasm.layers.attention.near_far import Far, Near, near_far_attention
from chiasm.layers.attention.residue import has_kernel
from chiasm.layers.attention.rows import MASKED
from chiasm.layers.attention.strided import strided_attention

HEADS, WIDTH = 3, 7
ways = pytest.mark.parametrize("causal", [False, True], ids=["both", "causal"])


def heads(count: int, seed: int = 0, rows: int = 2) -> tuple[Tensor, Tensor, Tensor]:
    made = torch.randn(
        3, rows, HEADS, count, WIDTH, dtype=torch.double,
        generator=torch.Generator().manual_seed(seed),
    )  # fmt: skip
    q, k, v = (2 * made).unbind(0)
    return q.clone().requires_grad_(), k.clone().requires_grad_(), v.clone().requires_grad_()


def some_bias(count: int, rows: int = 2) -> Tensor:
    generator = torch.Generator().manual_seed(1)
    bias = torch.rand(rows, count, generator=generator).double() * 3
    bias[1, count - count // 3 :] = MASKED
    return bias


def reference(q: Tensor, k: Tensor, v: Tensor, seen: Tensor, bias: Tensor | None) -> Tensor:
    """The whole map, masked: `seen` bool (N, K)."""
    scores = q @ k.transpose(-1, -2) / WIDTH**0.5
    if bias is not None:
        scores = scores + bias[:, None, None]
    return scores.masked_fill(~seen, MASKED).softmax(-1) @ v


def check_agree(found: Tensor, expected: Tensor, inputs: tuple[Tensor, ...]) -> None:
    """Values and gradients are the same."""
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-9)
    given = torch.randn(found.shape, dtype=torch.double, generator=torch.Generator().manual_seed(2))
    first = torch.autograd.grad(found, inputs, given)
    second = torch.autograd.grad(expected, inputs, given)
    for one, other in zip(first, second, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-9)


def real_rows(x: Tensor, bias: Tensor | None) -> Tensor:
    """Zero at queries that are padding, whose answers nobody reads."""
    return x if bias is None else x.masked_fill((bias < MASKED / 2)[:, None, :, None], 0.0)


def places(count: int) -> tuple[Tensor, Tensor]:
    return torch.arange(count)[:, None], torch.arange(count)[None]


@ways
@pytest.mark.parametrize("biased", [False, True])
@pytest.mark.parametrize("count", [1, 5, 64, 151, 300])
@pytest.mark.parametrize(("window", "first"), [(3, 0), (3, 2), (17, 5), (70, 1), (1, 7)])
def test_local_global_is_the_masked_reference(
    count: int, window: int, first: int, biased: bool, causal: bool
) -> None:
    q, k, v = heads(count)
    bias = some_bias(count) if biased else None
    i, j = places(count)
    seen = ((i - j).abs() <= window) | (i < first) | (j < first)
    if causal:
        seen = seen & (j <= i)
    found = local_global_attention(
        q, k, v, window=window, global_tokens=first, causal=causal, bias=bias
    )
    expected = reference(q, k, v, seen, bias)
    check_agree(real_rows(found, bias), real_rows(expected, bias), (q, k, v))


@ways
@pytest.mark.parametrize("biased", [False, True])
@pytest.mark.parametrize("count", [1, 4, 13, 150, 301])
@pytest.mark.parametrize(("stride", "window"), [(1, 0), (1, 3), (3, 0), (3, 2), (4, 11), (29, 5)])
def test_strided_is_the_masked_reference(
    count: int, stride: int, window: int, biased: bool, causal: bool
) -> None:
    q, k, v = heads(count)
    bias = some_bias(count) if biased else None
    i, j = places(count)
    seen = ((i - j) % stride == 0) | ((i - j).abs() <= window)
    if causal:
        seen = seen & (j <= i)
    found = strided_attention(q, k, v, stride=stride, window=window, causal=causal, bias=bias)
    expected = reference(q, k, v, seen, bias)
    check_agree(real_rows(found, bias), real_rows(expected, bias), (q, k, v))


def test_the_kernels_that_strided_attention_calls_by_name_are_there() -> None:
    assert has_kernel(torch.zeros(1, 2, 3, 5))
    assert not has_kernel(torch.zeros(1, 2, 0, 5))


@ways
@pytest.mark.parametrize("biased", [False, True])
@pytest.mark.parametrize("count", [1, 13, 150])
def test_strided_by_class_without_these_kernels(
    count: int, biased: bool, causal: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on a GPU: classes padded to one length, and one call."""
    bias = some_bias(count) if biased else None
    q, k, v = heads(count)
    with_kernels = strided_attention(q, k, v, stride=3, causal=causal, bias=bias)
    monkeypatch.setattr("chiasm.layers.attention.strided.has_kernel", lambda x: False)
    found = strided_attention(q, k, v, stride=3, causal=causal, bias=bias)
    check_agree(real_rows(found, bias), real_rows(with_kernels, bias), (q, k, v))


@pytest.mark.parametrize("pieces", [1, 1000])
def test_gradients_of_a_class_in_pieces_of_heads(
    pieces: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("chiasm.layers.attention.residue._PIECES", pieces)
    q, k, v = heads(29)
    i, j = places(29)
    found = strided_attention(q, k, v, stride=3)
    check_agree(found, reference(q, k, v, (i - j) % 3 == 0, None), (q, k, v))


@ways
@pytest.mark.parametrize("count", [1, 13, 150])
def test_dense_with_a_bias_is_the_masked_reference(count: int, causal: bool) -> None:
    q, k, v = heads(count)
    bias = some_bias(count)
    i, j = places(count)
    seen = j <= i if causal else (j <= i) | True
    found = softmax_attention(q, k, v, bias=bias, causal=causal)
    expected = reference(q, k, v, seen, bias)
    check_agree(real_rows(found, bias), real_rows(expected, bias), (q, k, v))


def test_near_and_far_keys_of_a_stream_stand_where_they_are_said_to() -> None:
    """Queries 11 to 28 of a row: keys from before stand in front of the first query."""
    before, count, stride, window = 11, 29, 4, 5
    q, k, v = heads(count, rows=1)
    front = -before % stride
    ends = (0, 0, front, -(front + count) % stride)
    keys, values = (
        nn.functional.pad(t, ends).unflatten(2, (-1, stride)).transpose(2, 3) for t in (k, v)
    )
    hide = nn.functional.pad(torch.zeros(1, count).double(), ends[2:], value=MASKED)
    far_bias = hide.unflatten(1, (-1, stride)).transpose(1, 2)
    far = Far(keys, values, far_bias, causal=True, first=-(before + front))
    near = Near(k, v, None, before=window, after=0, first=before, skip=stride)
    found = near_far_attention(q[:, :, before:], near, far)
    i, j = places(count)
    seen = (((i - j) % stride == 0) | (i - j <= window)) & (j <= i)
    expected = reference(q, k, v, seen, None)[:, :, before:]
    check_agree(found, expected, (q, k, v))


def test_groups_of_blocks_give_what_single_blocks_give(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a GPU many blocks are read at a time; the same way, forced here."""
    q, k, v = heads(407)
    for size in (1, 1 << 16, 1 << 30):
        monkeypatch.setattr("chiasm.layers.attention.near_far._SCORES_CPU", size)
        i, j = places(407)
        seen = ((i - j).abs() <= 13) | (i < 3) | (j < 3)
        found = local_global_attention(q, k, v, window=13, global_tokens=3)
        check_agree(found, reference(q, k, v, seen, None), (q, k, v))
        found = strided_attention(q, k, v, stride=3, window=4, causal=True)
        seen = (((i - j) % 3 == 0) | (i - j <= 4)) & (j <= i)
        check_agree(found, reference(q, k, v, seen, None), (q, k, v))


def same_weights(name: str, *, causal: bool, **choices: Any) -> tuple[nn.Module, nn.Module]:
    """A module and a dense one with the same projections, in float32."""
    torch.manual_seed(3)
    module = ATTENTION[name](width=22, heads=2, causal=causal, **choices).build()
    dense = ATTENTION["dense"](width=22, heads=2, causal=causal).build()
    dense.projections.load_state_dict(module.projections.state_dict())
    return module, dense


@ways
@pytest.mark.parametrize(
    ("name", "choices"),
    [
        ("local_global", {"window": 149, "global_tokens": 0}),
        ("local_global", {"window": 149}),
        ("local_global", {"window": 148, "global_tokens": 5}),
        ("local_global", {"window": 1, "global_tokens": 149}),
        ("strided", {"stride": 1}),
        ("strided", {"stride": 1, "window": 7}),
        ("strided", {"stride": 3, "window": 149}),
        ("strided", {"stride": 3, "window": 148}),
        ("cross_memory", {"slots": 149, "segment": 7, "pool": 1}),
        ("cross_memory", {"slots": 311, "segment": 64, "pool": 1}),
        ("hierarchical", {"levels": 1}),
        ("hierarchical", {"levels": 1, "top": "window", "window": 149}),
    ],
)
def test_the_exact_limits_are_dense(name: str, choices: dict[str, Any], causal: bool) -> None:
    module, dense = same_weights(name, causal=causal, **choices)
    x = 3 * torch.randn(2, 149, 22)
    mask = torch.arange(149)[None] < torch.tensor([[149], [83]])
    sizes = torch.randint(1, 11, (2, 149))
    for more in ((), (mask,), (mask, sizes), (None, sizes)):
        expected = dense(x, *more)
        assert (module(x, *more) - expected).abs().max() < 1e-5
    assert expected.abs().max() > 0.1


@pytest.mark.parametrize(
    ("name", "choices"),
    [
        ("local_global", {"window": 40}),
        ("strided", {"stride": 2}),
        ("cross_memory", {"slots": 60}),
        ("hierarchical", {"levels": 2}),
    ],
)
def test_off_the_limits_they_are_not_dense(name: str, choices: dict[str, Any]) -> None:
    module, dense = same_weights(name, causal=False, **choices)
    x = 3 * torch.randn(2, 149, 22)
    assert (module(x) - dense(x)).abs().max() > 1e-2


def test_pieces_of_a_row_are_equal_and_weighted() -> None:
    x = torch.randn(2, 11, 3, dtype=torch.double)
    pooled, sizes = pool_rows(x, None, 3)
    # Token r of n goes to piece floor(3 r / n): 4, 4 and 3 tokens.
    for piece, part in enumerate((x[:, :4], x[:, 4:8], x[:, 8:])):
        torch.testing.assert_close(pooled[:, piece], part.mean(1))
    assert sizes is not None
    torch.testing.assert_close(sizes.exp(), torch.tensor([[4.0, 4.0, 3.0]] * 2).double())
    weights = torch.tensor([[1.0, 3, 2, 0, 5, 0, 0, 0, 0, 0, 0], [1.0] * 11])
    pooled, sizes = pool_rows(x, weights, 3)
    # Row 0 has four real tokens: pieces of 2, 1 and 1.
    torch.testing.assert_close(pooled[0, 0], (x[0, 0] + 3 * x[0, 1]) / 4)
    torch.testing.assert_close(pooled[0, 1:], x[0, [2, 4]])
    assert sizes is not None
    torch.testing.assert_close(sizes[0].exp(), torch.tensor([4.0, 2, 5]).double())
    few, logs = pool_rows(x, (torch.arange(11) < 2).float().expand(2, -1), 3)
    torch.testing.assert_close(few[:, :2], x[:, :2])
    assert logs is not None
    assert logs[:, 2].tolist() == [MASKED] * 2


def test_memory_of_other_tokens_is_cross_attention() -> None:
    module = CrossMemoryAttentionConfig(width=22, heads=2, slots=5).build()
    x, memory = torch.randn(2, 13, 22), torch.randn(2, 29, 22)
    q, k, v = (
        layer(t).unflatten(-1, (2, 11)).transpose(1, 2)
        for layer, t in (
            (module.projections.query, x),
            (module.projections.key, memory),
            (module.projections.value, memory),
        )
    )
    expected = (q @ k.transpose(-1, -2) / 11**0.5).softmax(-1) @ v
    expected = module.projections.out(expected.transpose(1, 2).flatten(2))
    torch.testing.assert_close(module(x, memory=memory), expected)
    with pytest.raises(InputError, match=r"memory of shape \(2, 29, 7\)"):
        module(x, memory=memory[..., :7])
    causal = CrossMemoryAttentionConfig(width=22, heads=2, causal=True).build()
    with pytest.raises(InputError, match="causal=True; give"):
        causal(x, memory=memory)


def test_causal_memory_is_a_queue_of_averaged_segments() -> None:
    """Each token by hand: its segment up to itself, and the latest slots before it."""
    slots, segment, pool, learned = 5, 6, 3, 2
    config = CrossMemoryAttentionConfig(
        width=22, heads=2, causal=True, slots=slots, segment=segment, pool=pool, learned=learned
    )
    torch.manual_seed(1)
    module = config.build().double()
    # Whole segments: the memory after the last of them must not be seen by it.
    x = torch.randn(1, 42, 22, dtype=torch.double)
    sizes = torch.randint(1, 5, (1, 42))
    project = module.projections
    for place in range(42):
        own = range(place // segment * segment, place + 1)
        before = [list(range(s, s + pool)) for s in range(0, own[0], pool)][-slots:]
        weights = sizes[0].double()
        rows = [*module.learned, *(weights[p] @ x[0, p] / weights[p].sum() for p in before)]
        rows += [x[0, p] for p in own]
        counts = [1.0] * learned + [float(weights[p].sum()) for p in before]
        counts += [float(weights[p]) for p in own]
        source = torch.stack(rows)[None]
        q = project.queries(x[:, place : place + 1])
        k, v = project.memory(source)
        scores = q @ k.transpose(-1, -2) / 11**0.5 + torch.tensor(counts).log()
        expected = project.join(scores.softmax(-1) @ v)
        found = module(x, None, sizes)[:, place : place + 1]
        torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-7)


def by_hand(
    module: nn.Module, config: HierarchicalAttentionConfig, x: Tensor, sizes: Tensor
) -> Tensor:
    """Hierarchical attention token by token for one row, from its description."""
    q, k, v = (t[0] for t in module.projections(x))
    weights, count = sizes[0].double(), x.shape[1]
    answers = torch.zeros(config.levels, config.heads, count, 11, dtype=torch.double)
    there = torch.zeros(config.levels, count, dtype=torch.bool)
    for level in range(config.levels):
        piece = config.pool**level
        groups = [list(range(s, min(s + piece, count))) for s in range(0, count, piece)]
        if config.causal:
            groups = [group for group in groups if len(group) == piece]
        if not groups:
            continue
        total = torch.stack([weights[g].sum() for g in groups])
        mean = [
            torch.stack([(t[:, g] * weights[g, None]).sum(1) / weights[g].sum() for g in groups], 1)
            for t in (q, k, v)
        ]
        full = config.top == "full" and level == config.levels - 1
        i, j = places(len(groups))
        seen = ((i - j).abs() <= config.window) | torch.tensor(full)
        if config.causal:
            seen = seen & (j <= i)
        scores = mean[0] @ mean[1].transpose(-1, -2) / 11**0.5 + total.log()
        answer = scores.masked_fill(~seen, -torch.inf).softmax(-1) @ mean[2]
        for place in range(count):
            newest = (place + 1) // piece - 1 if config.causal else place // piece
            if newest >= 0:
                answers[level, :, place] = answer[:, newest]
                there[level, place] = True
    logits = module.level_logits.T[:, :, None].expand(-1, -1, count)
    shares = logits.masked_fill(~there[:, None], -torch.inf).softmax(0)
    return module.projections.join((shares[..., None] * answers).sum(0)[None])


@ways
@pytest.mark.parametrize("top", ["full", "window"])
@pytest.mark.parametrize(("levels", "pool", "window"), [(3, 2, 4), (2, 3, 2), (3, 5, 7)])
def test_hierarchical_is_its_description(
    levels: int, pool: int, window: int, top: Any, causal: bool
) -> None:
    config = HierarchicalAttentionConfig(
        width=22, heads=2, causal=causal, levels=levels, pool=pool, window=window, top=top
    )
    torch.manual_seed(2)
    module = config.build().double()
    nn.init.normal_(module.level_logits)
    x, sizes = torch.randn(1, 47, 22, dtype=torch.double), torch.randint(1, 6, (1, 47))
    torch.testing.assert_close(
        module(x, None, sizes), by_hand(module, config, x, sizes), rtol=1e-6, atol=1e-7
    )
    ones = torch.ones_like(sizes)
    torch.testing.assert_close(module(x), by_hand(module, config, x, ones), rtol=1e-6, atol=1e-7)


def test_levels_keep_the_documented_ratios() -> None:
    assert HierarchicalAttentionConfig().ratios == (1.0, 0.5, 0.25)
    assert HierarchicalAttentionConfig(levels=2, pool=5).ratios == (1.0, 0.2)


def test_segments_that_cannot_be_written_are_named() -> None:
    with pytest.raises(ValueError, match="segments of 7 tokens cannot be written in slots of 2"):
        CrossMemoryAttentionConfig(segment=7, pool=2)


def test_no_whole_map_is_ever_held() -> None:
    """The largest tensor that any operation makes stays far below N x N."""
    count, largest = 2048, 0

    class Watch(torch.utils._python_dispatch.TorchDispatchMode):
        def __torch_dispatch__(
            self, func: Any, types: Any, args: Any = (), kwargs: Any = None
        ) -> Any:
            nonlocal largest
            out = func(*args, **(kwargs or {}))
            for t in out if isinstance(out, tuple | list) else (out,):
                if isinstance(t, Tensor):
                    largest = max(largest, t.untyped_storage().nbytes() // t.element_size())
            return out

    x = torch.randn(2, count, 22)
    mask = torch.arange(count) < torch.tensor([[2011], [count]])
    for (name, kind), causal in itertools.product(ATTENTION.items(), (False, True)):
        module = kind(width=22, heads=2, causal=causal).build()
        largest = 0
        with Watch():
            module(x, mask).sum().backward()
        assert 0 < largest <= count * count / 4, (name, causal, largest)
