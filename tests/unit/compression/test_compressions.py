"""Every compression of the table: one interface, conserved sizes; importance, spans, baselines."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from chiasm.compression import COMPRESSIONS
from chiasm.compression.budget import BudgetConfig
from chiasm.compression.importance import ImportanceConfig
from chiasm.compression.merge import merge_tokens, unmerge_tokens
from chiasm.compression.merging import GuidedMergingConfig, SimilarityMergingConfig
from chiasm.compression.motion import DISConfig, FeatureChangeConfig
from chiasm.compression.saliency import SaliencyConfig
from chiasm.compression.schedule import ScheduleConfig
from chiasm.compression.spans import join_spans, split_spans
from chiasm.compression.uniform import UniformDroppingConfig, drop_tokens
from chiasm.core.config import read_config
from chiasm.core.errors import CompressionError, ConfigError, InputError
from chiasm.core.tokens import VisualTokens
from chiasm.language.merged import merged_grids, text_order
from tests.unit.compression.clips import CELL, assert_same, clip_tokens, conserves, row_of

CLIPS = [(5, 3, 7), (2, 4, 5)]


def clip() -> tuple[VisualTokens, list[Tensor]]:
    """Two clips on flat grey; in the first a square of 2 x 2 cells changes colour every frame."""
    tokens = clip_tokens(CLIPS, width=11)
    frames = [
        torch.full((count, rows * CELL, columns * CELL, 3), 128, dtype=torch.uint8)
        for count, rows, columns in CLIPS
    ]
    for index in range(5):
        frames[0][index, :16, 8:24] = 40 * index
    return tokens, frames


MOVED = [place for frame in range(5) for place in (1, 2, 8, 9) for place in [21 * frame + place]]


@pytest.mark.parametrize("name", COMPRESSIONS)
def test_every_compression_conserves(name: str) -> None:
    tokens, frames = clip()
    compression = COMPRESSIONS[name]().build()
    found = compression.compress(tokens, frames)
    assert found.mask.sum(1).tolist() == [53, 20]
    assert conserves(found, tokens)
    for row in found.rows():
        assert row.isfinite().all()
    text_order(found)
    merged_grids(found)


@pytest.mark.parametrize("name", COMPRESSIONS)
def test_every_curriculum_begins_with_all_tokens(name: str) -> None:
    tokens, frames = clip()
    compression = COMPRESSIONS[name](schedule=ScheduleConfig()).build()
    whole = compression.compress(tokens, frames, progress=0.0)
    for row in (0, 1):
        assert_same(row_of(whole, row), row_of(tokens, row))
    assert compression.compress(tokens, frames, progress=0.4).mask.sum(1).tolist() == [79, 30]
    assert compression.compress(tokens, frames).mask.sum(1).tolist() == [53, 20]


def test_what_moves_is_spared() -> None:
    tokens, frames = clip()
    guided = GuidedMergingConfig(budget=BudgetConfig(ratio=0.5)).build().compress(tokens, frames)
    plain = SimilarityMergingConfig(ratio=0.5).build().compress(tokens, frames)
    assert len(set(guided.sources[0, MOVED].tolist())) == len(MOVED)
    assert len(set(plain.sources[0, MOVED].tolist())) < len(MOVED)


def test_importance_of_movement_and_of_saliency() -> None:
    tokens, frames = clip()
    config = ImportanceConfig(saliency=SaliencyConfig(edge=0, attention=0, colour=1))
    measure = config.build()
    both = measure.of_tokens(tokens, frames)
    motion = measure.of_tokens(tokens, frames, weights=(1, 0))
    colour = measure.of_tokens(tokens, frames, weights=(0, 2))
    torch.testing.assert_close(both, (motion + colour) / 2)
    assert motion[0].nonzero()[:, 0].tolist() == MOVED
    assert both.min() >= 0 and both.max() <= 1
    assert not both[1].any() and both.shape == tokens.mask.shape


def test_importance_of_merged_tokens_is_that_of_their_best_cell() -> None:
    tokens, frames = clip()
    measure = ImportanceConfig().build()
    single = measure.of_tokens(tokens, frames)
    merged = merge_tokens(tokens, [17, 5])
    found = measure.of_tokens(merged, frames)
    for row, count in ((0, 17), (1, 5)):
        for place in range(count):
            assert found[row, place] == single[row][merged.sources[row] == place].max()
    assert not found[1, 5:].any()


def test_given_importance_is_taken_as_it_is() -> None:
    tokens, _ = clip()
    importance = torch.zeros(tokens.mask.shape)
    importance[0, :20] = 1
    compression = GuidedMergingConfig().build()
    found = compression.compress(tokens, importance=importance)
    wanted = merge_tokens(tokens, [53, 20], importance)
    for row in (0, 1):
        assert_same(row_of(found, row), row_of(wanted, row))
    with pytest.raises(InputError, match="importance of shape"):
        compression.compress(tokens, importance=importance[:, 1:])


def test_attention_and_features_are_enough_without_frames() -> None:
    tokens, _ = clip()
    saliency = SaliencyConfig(edge=0, colour=0, attention=1)
    config = ImportanceConfig(motion=FeatureChangeConfig(), saliency=saliency)
    rows = [torch.rand(5, 3, 21), torch.rand(2, 3, 20)]
    found = GuidedMergingConfig(importance=config).build().compress(tokens, attention=rows)
    assert conserves(found, tokens)


def test_budgets_reach_the_clips() -> None:
    tokens, frames = clip()
    shared = GuidedMergingConfig(budget=BudgetConfig(spread="shared")).build()
    assert shared.compress(tokens, frames).mask.sum(1).tolist() == [63, 10]
    content = GuidedMergingConfig(budget=BudgetConfig(spread="content")).build()
    busy, still = content.compress(tokens, frames).mask.sum(1).tolist()
    assert still == 10 and 27 < busy < 105


def test_spans_are_cut_and_joined() -> None:
    tokens = clip_tokens([(5, 2, 3), (2, 3, 4)])
    cutting, spans = split_spans(tokens, 2)
    assert spans == [3, 1]
    assert cutting.mask.sum(1).tolist() == [12, 12, 6, 24]
    assert torch.equal(cutting.features[1, :12], tokens.features[0, 12:24])
    joined = join_spans(cutting, spans)
    for row in (0, 1):
        assert_same(row_of(joined, row), row_of(tokens, row))


@pytest.mark.parametrize("config", [GuidedMergingConfig(span=2), SimilarityMergingConfig(span=2)])
def test_tokens_of_two_spans_never_meet(
    config: GuidedMergingConfig | SimilarityMergingConfig,
) -> None:
    tokens, frames = clip()
    found = config.build().compress(tokens, frames)
    assert found.mask.sum(1).tolist() == [53, 20]
    assert conserves(found, tokens)
    for row, (count, rows, columns) in enumerate(CLIPS):
        span = torch.arange(count * rows * columns) // (2 * rows * columns)
        for place in range(int(found.mask[row].sum())):
            members = found.sources[row, : len(span)] == place
            assert len(span[members].unique()) == 1
            mean = tokens.features[row, : len(span)][members].mean(0)
            torch.testing.assert_close(found.features[row, place], mean)


def test_spans_with_more_to_see_keep_more() -> None:
    tokens, frames = clip()
    frames[0][:3] = 128
    found = GuidedMergingConfig(span=1).build().compress(tokens, frames)
    kept = [len(set(found.sources[0, 21 * i : 21 * i + 21].tolist())) for i in range(5)]
    assert sum(kept) == 53
    assert min(kept) >= 2 and kept[3] > 2 * kept[0]


def test_spans_need_a_token_each() -> None:
    tokens, frames = clip()
    config = GuidedMergingConfig(span=1, budget=BudgetConfig(ratio=0.03))
    with pytest.raises(CompressionError, match=r"row 0 is to keep 3 tokens in 5 spans of 1 frame"):
        config.build().compress(tokens, frames)


def test_spans_that_cannot_be_cut_or_joined() -> None:
    tokens, _ = clip()
    with pytest.raises(CompressionError, match="merged tokens cannot be cut into spans"):
        split_spans(merge_tokens(tokens, 20), 2)
    with pytest.raises(InputError, match="spans of 0 frames"):
        split_spans(tokens, 0)
    with pytest.raises(InputError, match=r"2 spans for rows of \[1\]"):
        join_spans(tokens, [1])


def test_dropping_keeps_even_steps_bit_for_bit() -> None:
    tokens = clip_tokens([(1, 3, 5), (1, 2, 4)])
    found = drop_tokens(tokens, [4, 3])
    kept = [[1, 5, 9, 13], [1, 4, 6]]
    for row, places in enumerate(kept):
        count = len(places)
        assert torch.equal(found.features[row, :count], tokens.features[row, places])
        assert torch.equal(found.cells[row, :count], tokens.cells[row, places])
    assert found.sources[0].tolist() == [0] * 4 + [1] * 4 + [2] * 4 + [3] * 3
    assert found.sources[1].tolist() == [0] * 3 + [1] * 3 + [2] * 2 + [-1] * 7
    assert found.sizes.tolist() == [[4, 4, 4, 3], [3, 3, 2, 0]]
    assert conserves(found, tokens)
    whole = drop_tokens(tokens, [15, 8])
    for row in (0, 1):
        assert_same(row_of(whole, row), row_of(tokens, row))
    assert drop_tokens(tokens, 1).sizes.tolist() == [[15], [8]]


def test_dropping_merged_tokens_counts_originals() -> None:
    tokens = clip_tokens([(1, 3, 5)])
    found = drop_tokens(merge_tokens(tokens, 7), 3)
    assert conserves(found, tokens)
    with pytest.raises(CompressionError, match="row 0 has 15 tokens, and 16"):
        drop_tokens(tokens, 16)


def test_dropping_loses_more_than_merging() -> None:
    tokens = clip_tokens([(4, 5, 7)], width=5)
    dropped = UniformDroppingConfig(ratio=0.25).build().compress(tokens)
    merged = SimilarityMergingConfig(ratio=0.25).build().compress(tokens)
    errors = [(unmerge_tokens(t) - tokens.features).square().mean() for t in (dropped, merged)]
    assert errors[1] < 0.5 * errors[0]


def test_configurations_are_read_and_written() -> None:
    values = {"importance": {"motion": {"kind": "dis", "preset": "medium"}}, "span": 8}
    config = read_config(GuidedMergingConfig, values, "a recipe")
    assert config.importance.motion == DISConfig(preset="medium")
    written = config.model_dump(exclude_defaults=True, mode="json")
    assert written == values
    assert GuidedMergingConfig.model_validate(written) == config
    assert GuidedMergingConfig.model_validate(GuidedMergingConfig().model_dump()) == (
        GuidedMergingConfig()
    )


def test_unknown_motion_is_a_fault_of_the_configuration() -> None:
    with pytest.raises(ConfigError, match=r"unknown motion signal 'dls'.*difference"):
        read_config(ImportanceConfig, {"motion": {"kind": "dls"}}, "a recipe")
    with pytest.raises(ConfigError, match="presets"):
        read_config(ImportanceConfig, {"motion": {"kind": "dis", "presets": "fast"}}, "a recipe")
    with pytest.raises(ConfigError, match="motion"):
        read_config(ImportanceConfig, {"motion": "dis"}, "a recipe")


def test_inputs_that_do_not_fit() -> None:
    tokens, frames = clip()
    measure = ImportanceConfig().build()
    with pytest.raises(InputError, match="frames of 1 clips for 2 rows"):
        measure.of_tokens(tokens, frames[:1])
    with pytest.raises(InputError, match="needs the frames of the clip"):
        measure.of_tokens(tokens)
    with pytest.raises(InputError, match="one number of frames; found frames: 4, features: 5"):
        measure.of_tokens(tokens, [frames[0][:4], frames[1]])
    with pytest.raises(InputError, match="weights 0 of movement and 0 of saliency"):
        measure.of_tokens(tokens, frames, weights=(0, 0))
    odd = clip_tokens([(1, 3, 7)])
    cut = VisualTokens(
        odd.features[:, :20], odd.cells[:, :20], odd.sizes[:, :20], odd.sources[:, :20],
        odd.mask[:, :20], odd.times[:, :20], odd.geometries,
    )  # fmt: skip
    with pytest.raises(InputError, match="row 0 has 20 original tokens, no whole number of frames"):
        measure.of_tokens(cut, frames[:1])
    with pytest.raises(InputError, match="no whole number of frames of 21 cells"):
        split_spans(cut, 1)
