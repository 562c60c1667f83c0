"""Merging: exact counts, conserved sizes, true sources, means, order, and a slow reference."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from chiasm.compression import matching
from chiasm.compression.matching import match_tokens
from chiasm.compression.merge import merge_tokens, unmerge_tokens
from chiasm.core.errors import CompressionError, InputError
from chiasm.core.tokens import VisualTokens
from chiasm.language.merged import merged_grids, text_order
from tests.unit.compression.clips import assert_same, clip_tokens, conserves, row_of

CLIPS = st.lists(
    st.tuples(st.integers(1, 4), st.integers(1, 4), st.integers(2, 5)), min_size=1, max_size=3
)


@st.composite
def merges(draw: st.DrawFn) -> tuple[VisualTokens, list[int], Tensor | None]:
    """Clips, how many tokens of each are kept, and importance or none."""
    tokens = clip_tokens(draw(CLIPS), seed=draw(st.integers(0, 99)), dtype=torch.float64)
    keep = [draw(st.integers(1, int(count))) for count in tokens.mask.sum(1)]
    if draw(st.booleans()):
        return tokens, keep, None
    generator = torch.Generator().manual_seed(draw(st.integers(0, 99)))
    importance = torch.rand(tokens.mask.shape, generator=generator, dtype=torch.float64)
    return tokens, keep, importance.masked_fill(~tokens.mask, torch.nan)


@settings(max_examples=25, deadline=None)
@given(case=merges(), step=st.sampled_from((0.07, 0.25, 0.5)), by_importance=st.booleans())
def test_counts_sizes_and_sources(
    case: tuple[VisualTokens, list[int], Tensor | None], step: float, by_importance: bool
) -> None:
    tokens, keep, importance = case
    weigh = "importance" if by_importance and importance is not None else "size"
    merged = merge_tokens(tokens, keep, importance, step=step, weigh=weigh)
    assert merged.mask.sum(1).tolist() == keep
    assert conserves(merged, tokens)
    assert merged.geometries == tokens.geometries
    for row in merged.rows():
        assert row.isfinite().all()
    # Features, cells and times are the means of what the sources say, token by token.
    for row, count in enumerate(keep):
        real = tokens.mask[row]
        weights = tokens.sizes[row][real].double()
        if weigh == "importance":
            weights = importance[row][real] + 1e-3
        for place in range(count):
            members = merged.sources[row][real] == place
            mean = (tokens.features[row][real] * weights[:, None])[members].sum(0)
            mean = mean / weights[members].sum()
            torch.testing.assert_close(merged.features[row, place], mean)
            cell = tokens.cells[row][real][members].mean(0)
            torch.testing.assert_close(merged.cells[row, place], cell)
            time = tokens.times[row][real][members].mean()
            torch.testing.assert_close(merged.times[row, place], time)


@settings(max_examples=25, deadline=None)
@given(case=merges())
def test_order_is_that_of_first_sources(
    case: tuple[VisualTokens, list[int], Tensor | None],
) -> None:
    tokens, keep, importance = case
    merged = merge_tokens(tokens, keep, importance)
    for row, count in enumerate(keep):
        sources = merged.sources[row].tolist()
        first = [sources.index(place) for place in range(count)]
        assert first == sorted(first)
    orders, _ = text_order(merged)
    assert all(torch.equal(order, torch.arange(len(order))) for order in orders)


@settings(max_examples=25, deadline=None)
@given(case=merges())
def test_unmerging_gives_each_original_its_token(
    case: tuple[VisualTokens, list[int], Tensor | None],
) -> None:
    tokens, keep, importance = case
    merged = merge_tokens(tokens, keep, importance)
    whole = unmerge_tokens(merged)
    assert whole.shape == tokens.features.shape
    for row in range(len(keep)):
        for place, source in enumerate(merged.sources[row].tolist()):
            wanted = merged.features[row, source] if source >= 0 else torch.zeros(7)
            assert torch.equal(whole[row, place], wanted.to(whole))
    # A mean keeps the sum: what is unmerged sums to what was merged.
    for row, real in enumerate(tokens.mask):
        total = tokens.features[row][real].sum(0)
        torch.testing.assert_close(whole[row][real].sum(0), total, rtol=0, atol=1e-9)


def reference(
    features: Tensor,
    keep: int,
    *,
    frames: list[int],
    importance: list[float],
    weights: list[float],
    fixed: list[bool],
    penalty: float,
    step: float,
) -> list[int]:
    """The rule, group by group, one row: the group of each token."""
    groups = [
        {"members": [i], "mean": features[i], "weight": weights[i], "frame": frames[i],
         "worth": importance[i], "fixed": fixed[i]}
        for i in range(len(features))
    ]  # fmt: skip
    while len(groups) > keep:
        givers, takers, number, place, before = [], [], -1, 0, None
        for group in groups:
            if group["fixed"]:
                continue
            number, place = (number, place + 1) if group["frame"] == before else (number + 1, 0)
            before = group["frame"]
            (takers if (number + place) % 2 else givers).append(group)
        edges = []
        for giver in givers:
            like = [float(F.cosine_similarity(giver["mean"], t["mean"], dim=0)) for t in takers]
            best = like.index(max(like))
            edges.append((penalty * giver["worth"] - like[best], giver, takers[best]))
        edges.sort(key=lambda edge: edge[0])
        most = max(1, int(step * len(groups)))
        joining: dict[int, list[dict]] = {}
        for _, giver, taker in edges[: min(most, len(groups) - keep)]:
            joining.setdefault(id(taker), []).append(giver)
            groups = [group for group in groups if group is not giver]
        for taker in takers:
            parts = [taker, *joining.get(id(taker), [])]
            total = sum(part["weight"] for part in parts)
            mean = sum(part["mean"] * part["weight"] for part in parts) / total
            taker["members"] = sorted(i for part in parts for i in part["members"])
            taker["worth"] = max(part["worth"] for part in parts)
            taker["frame"] = min(part["frame"] for part in parts)
            taker["mean"], taker["weight"] = mean, total
        groups.sort(key=lambda group: group["members"][0])
    found = [0] * len(features)
    for index, group in enumerate(groups):
        for member in group["members"]:
            found[member] = index
    return found


@settings(max_examples=25, deadline=None)
@given(
    case=merges(),
    step=st.sampled_from((0.11, 0.25, 0.5)),
    penalty=st.sampled_from((0.0, 0.7, 2.0)),
    protect=st.integers(0, 2),
)
def test_equals_the_slow_reference(
    case: tuple[VisualTokens, list[int], Tensor | None], step: float, penalty: float, protect: int
) -> None:
    tokens, keep, importance = case
    counts = tokens.mask.sum(1).tolist()
    keep = [
        min(count, max(number, protect + 1)) for count, number in zip(counts, keep, strict=True)
    ]
    merged = merge_tokens(tokens, keep, importance, step=step, penalty=penalty, protect=protect)
    worth = torch.zeros(tokens.mask.shape) if importance is None else importance
    for row, count in enumerate(counts):
        wanted = reference(
            tokens.features[row, :count],
            keep[row],
            frames=tokens.times[row, :count].tolist(),
            importance=worth[row, :count].tolist(),
            weights=[1.0] * count,
            fixed=[place < protect for place in range(count)],
            penalty=penalty,
            step=step,
        )
        assert merged.sources[row, :count].tolist() == wanted


@settings(max_examples=25, deadline=None)
@given(case=merges())
def test_padded_rows_equal_single_rows(case: tuple[VisualTokens, list[int], Tensor | None]) -> None:
    tokens, keep, importance = case
    merged = merge_tokens(tokens, keep, importance)
    for row, number in enumerate(keep):
        single = row_of(tokens, row)
        alone = None if importance is None else importance[row, tokens.mask[row]][None]
        assert_same(merge_tokens(single, number, alone), row_of(merged, row), 1e-12)


def test_padding_never_changes_a_bit() -> None:
    tokens = clip_tokens([(2, 3, 5), (1, 2, 3)])
    merged = merge_tokens(tokens, [17, 4])
    other = replace(tokens, features=tokens.features.nan_to_num(1e9))
    again = merge_tokens(other, [17, 4])
    for row in (0, 1):
        assert_same(row_of(again, row), row_of(merged, row))


def test_rows_do_not_depend_on_their_place() -> None:
    tokens = clip_tokens([(2, 3, 5)] * 3)
    importance = torch.rand(3, 30, generator=torch.Generator().manual_seed(1))
    order = torch.tensor([2, 0, 1])
    turned = replace(
        tokens,
        **{
            name: getattr(tokens, name)[order]
            for name in ("features", "cells", "sizes", "sources", "mask", "times")
        },
    )
    merged = merge_tokens(tokens, [7, 11, 13], importance)
    found = merge_tokens(turned, [13, 7, 11], importance[order])
    for place, row in enumerate(order.tolist()):
        assert_same(row_of(found, place), row_of(merged, row))


def test_channels_do_not_depend_on_their_order() -> None:
    tokens = clip_tokens([(1, 5, 7)], dtype=torch.float64)
    turn = torch.randperm(7, generator=torch.Generator().manual_seed(0))
    merged = merge_tokens(tokens, 11)
    found = merge_tokens(tokens.with_features(tokens.features[..., turn]), 11)
    assert torch.equal(found.sources, merged.sources)
    torch.testing.assert_close(found.features, merged.features[..., turn])


def test_two_runs_agree_bit_for_bit_even_among_equals() -> None:
    tokens = clip_tokens([(3, 4, 5)])
    same = tokens.with_features(torch.ones_like(tokens.features))
    first, second = merge_tokens(same, 17), merge_tokens(same, 17)
    assert_same(first, second)
    # All scores are equal: the first givers go, all to the first taker.
    one_round = merge_tokens(same, 57)
    assert one_round.sources[0, :6].tolist() == [0, 0, 0, 1, 0, 2]


@pytest.mark.parametrize("weights", [None, 0.3])
def test_what_rounding_alone_tells_apart_is_equal(weights: float | None) -> None:
    """Another machine, or another number of rows, adds up in another order."""
    tokens = clip_tokens([(6, 3, 5)], width=53)
    still = tokens.features[:, :15].repeat(1, 6, 1)
    noise = torch.randn(still.shape, generator=torch.Generator().manual_seed(1))
    importance = None if weights is None else torch.full(still.shape[:2], weights)
    sources = []
    for scale in (0.0, 1e-7):
        near = tokens.with_features(still * (1 + scale * noise))
        worth = None if importance is None else importance * (1 + scale * noise[..., 0])
        sources.append(merge_tokens(near, 41, worth).sources)
    assert torch.equal(*sources)


def test_all_tokens_kept_is_the_identity_bit_for_bit() -> None:
    tokens = clip_tokens([(2, 3, 5), (1, 2, 3)])
    merged = merge_tokens(tokens, [30, 6], torch.rand(2, 30))
    assert merged is tokens


def test_tokens_left_alone_keep_their_bits() -> None:
    tokens = clip_tokens([(1, 5, 7)], width=53)
    merged = merge_tokens(tokens, 23)
    alone = (merged.sizes[0] == 1).nonzero()[:, 0].tolist()
    assert len(alone) > 5
    for place in alone:
        source = merged.sources[0].tolist().index(place)
        assert torch.equal(merged.features[0, place], tokens.features[0, source])
        assert torch.equal(merged.cells[0, place], tokens.cells[0, source])


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_types_are_kept_and_means_are_exact(dtype: torch.dtype) -> None:
    tokens = clip_tokens([(1, 5, 7)], width=13)
    lower = tokens.with_features(tokens.features.to(dtype))
    merged = merge_tokens(lower, 3)
    assert merged.features.dtype == dtype
    for place in range(3):
        members = merged.sources[0] == place
        mean = lower.features[0][members].double().mean(0)
        torch.testing.assert_close(merged.features[0, place], mean.to(dtype))


def test_merging_again_counts_originals() -> None:
    tokens = clip_tokens([(2, 3, 5), (1, 3, 5)], dtype=torch.float64)
    once = merge_tokens(tokens, [19, 11])
    twice = merge_tokens(once, [5, 3])
    assert conserves(twice, tokens)
    assert unmerge_tokens(twice).shape == tokens.features.shape
    for place in range(5):
        members = twice.sources[0] == place
        mean = tokens.features[0][members].mean(0)
        torch.testing.assert_close(twice.features[0, place], mean)
    text_order(twice)
    merged_grids(twice)


def test_important_tokens_stay_apart() -> None:
    # All are nearly alike, so that similarity decides nothing.
    tokens = clip_tokens([(1, 8, 8)], width=11)
    alike = tokens.with_features(1 + 1e-3 * tokens.features)
    important = torch.zeros(1, 64)
    important[0, 10:26] = 1
    # The fewer others are left, the smaller the steps that find them.
    for keep, step in ((48, 0.25), (32, 0.25), (24, 0.1), (20, 0.05)):
        merged = merge_tokens(alike, keep, important, step=step)
        held = merged.sources[0, 10:26].tolist()
        assert len(set(held)) == 16, keep
        plain = merge_tokens(alike, keep, step=step)
        assert len(set(plain.sources[0, 10:26].tolist())) < 16, keep


def test_importance_as_weight_draws_the_mean() -> None:
    tokens = clip_tokens([(1, 1, 2)], width=3)
    important = torch.tensor([[1.0, 0.0]])
    merged = merge_tokens(tokens, 1, important, weigh="importance")
    drawn = (1.001 * tokens.features[0, 0] + 0.001 * tokens.features[0, 1]) / 1.002
    torch.testing.assert_close(merged.features[0, 0], drawn)
    # Positions are those of the cells, whatever they are worth.
    torch.testing.assert_close(merged.cells[0, 0], torch.tensor([4.0, 0.0, 12.0, 8.0]))


def test_still_frames_merge_in_time() -> None:
    # Two frames of 12 cells show the same; dealt by place alone no cell could meet itself.
    tokens = clip_tokens([(1, 3, 4)], width=29)
    still = clip_tokens([(2, 3, 4)], width=29).with_features(tokens.features.repeat(1, 2, 1))
    merged = merge_tokens(still, 12, step=0.5)
    assert merged.sources[0].tolist() == [*range(12)] * 2
    assert merged.times[0].tolist() == [1.0] * 12
    torch.testing.assert_close(merged.features, tokens.features)


def test_protected_tokens_stay_as_they_are() -> None:
    tokens = clip_tokens([(1, 5, 5)])
    merged = merge_tokens(tokens, 4, protect=3)
    assert torch.equal(merged.features[:, :3], tokens.features[:, :3])
    assert merged.sizes.tolist() == [[1, 1, 1, 22]]
    chosen = torch.zeros(1, 25, dtype=torch.bool)
    chosen[0, [4, 17]] = True
    merged = merge_tokens(tokens, 5, protect=chosen)
    assert merged.sizes[0, merged.sources[0, [4, 17]]].tolist() == [1, 1]


def test_another_metric_decides() -> None:
    tokens = clip_tokens([(1, 3, 4)])
    # By place: neighbours are alike, whatever the features.
    angle = torch.arange(12) // 2 * 1.0
    metric = torch.stack([angle.cos(), angle.sin()], dim=-1)[None]
    merged = merge_tokens(tokens, 6, metric=metric, step=0.5)
    assert merged.sources[0].tolist() == [0, 0, 1, 1, 2, 2, 3, 3, 4, 4, 5, 5]


def test_gradients_reach_every_token_in_its_share() -> None:
    tokens = clip_tokens([(1, 3, 5)])
    features = tokens.features.requires_grad_()
    importance = torch.rand(1, 15, generator=torch.Generator().manual_seed(0), requires_grad=True)
    merged = merge_tokens(tokens.with_features(features), 4, importance, weigh="importance")
    merged.features.sum().backward()
    sums = torch.zeros(1, 4).index_add(1, merged.sources[0], features.grad[..., 0])
    torch.testing.assert_close(sums, torch.ones(1, 4))
    assert importance.grad is not None and importance.grad.abs().sum() > 0


def test_long_rows_are_compared_in_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    tokens = clip_tokens([(3, 5, 7), (2, 5, 7)], dtype=torch.float64)
    whole = merge_tokens(tokens, [31, 17])
    monkeypatch.setattr(matching, "_BLOCK", 200)
    blocks = merge_tokens(tokens, [31, 17])
    assert torch.equal(blocks.sources, whole.sources)


def test_matching_alone_takes_plain_tensors() -> None:
    metric = torch.randn(2, 13, 5, generator=torch.Generator().manual_seed(0))
    groups = match_tokens(metric, [6, 9]).groups
    assert [sorted(set(row)) for row in groups.tolist()] == [[*range(6)], [*range(9)]]


@pytest.mark.parametrize(
    ("keep", "more", "message"),
    [
        (31, {}, r"row 0 has 30 tokens, and 31 are to be kept; keep at least 1 and at most 30"),
        (17, {}, r"row 1 has 6 tokens, and 17 are to be kept"),
        (0, {}, r"row 0 has 30 tokens, and 0 are to be kept; keep at least 1"),
        (-3, {}, r"-3 are to be kept"),
        (2, {"protect": 2}, r"row 0 has 30 tokens, 2 of them protected, .* keep at least 3"),
    ],
)
def test_budgets_that_cannot_be_met(keep: int, more: dict[str, int], message: str) -> None:
    tokens = clip_tokens([(2, 3, 5), (1, 2, 3)])
    with pytest.raises(CompressionError, match=message):
        merge_tokens(tokens, keep, **more)


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"importance": torch.zeros(2, 29)}, r"importance of shape \(2, 29\).*ask for \(2, 30\)"),
        ({"importance": torch.full((2, 30), torch.nan)}, r"row 0, token 0 is nan \(36 such"),
        ({"importance": torch.full((2, 30), torch.inf)}, "is inf"),
        ({"importance": torch.full((2, 30), -0.5), "weigh": "importance"}, "as low as -0.5"),
        ({"weigh": "importance"}, "without importance; give it"),
        ({"metric": torch.zeros(2, 29, 3)}, r"metric of shape \(2, 29, 3\) for 2 rows of 30"),
        ({"protect": -1}, "protect is -1"),
        ({"protect": torch.zeros(2, 30)}, "give bool"),
        ({"step": 0.0}, r"step is 0.0.*\(0, 0.5\]"),
        ({"step": 0.6}, "step is 0.6"),
        ({"keep": [3, 3, 3]}, "keep has 3 numbers for 2 rows"),
    ],
)
def test_values_that_do_not_fit(more: dict, message: str) -> None:
    tokens = clip_tokens([(2, 3, 5), (1, 2, 3)])
    with pytest.raises(InputError, match=message):
        merge_tokens(tokens, **{"keep": 3, **more})
