"""Which sample stands where: stages one after the other, each from the start of its own mixture."""

from __future__ import annotations

from pathlib import Path

import pytest
from transformers import Qwen2VLImageProcessor

from chiasm.core.errors import ConfigError, DataError
from chiasm.core.samples import Sample, Turn
from chiasm.data.media import load_image
from chiasm.data.mixture import Mixture
from chiasm.language.hosts.qwen_images import QwenImages
from chiasm.recipes.schema import Source
from chiasm.recipes.sources import StagedSamples, build_mixture, list_samples
from tests.recipes.small import write_questions
from tests.tiny import tiny_qwen2_5_vl


class Named:
    """Samples that know their place."""

    def __init__(self, name: str, count: int) -> None:
        self.name, self.count = name, count

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> Sample:
        if not 0 <= index < self.count:
            raise IndexError(index)
        return Sample(f"{self.name}{index}", (Turn("user", ("?",)), Turn("assistant", ("!",))))


def mixture(name: str, count: int, seed: int = 0) -> Mixture:
    return Mixture({name: Named(name, count)}, None, seed=seed)


def test_each_stage_reads_its_own_mixture_from_its_start() -> None:
    parts = [mixture("a", 5), mixture("b", 3, 1), mixture("c", 7, 2)]
    staged = StagedSamples(parts, [4, 8, 3])
    assert len(staged) == 15
    found = [staged[position].identifier for position in range(15)]
    assert found[:4] == [parts[0].sample_at(i).identifier for i in range(4)]
    assert found[4:12] == [parts[1].sample_at(i).identifier for i in range(8)]
    assert found[12:] == [parts[2].sample_at(i).identifier for i in range(3)]
    # A stage longer than its data goes round, each pass once through all.
    assert sorted(found[4:7]) == sorted(found[7:10]) == ["b0", "b1", "b2"]


def test_positions_beyond_the_plan_go_on_in_the_last_stage() -> None:
    """A dataset of which more is read than planned must not fall back to an earlier stage."""
    staged = StagedSamples([mixture("a", 5), mixture("b", 3)], [2, 2])
    assert staged[5].identifier == mixture("b", 3).sample_at(3).identifier


def test_sources_are_mixed_by_weight_or_by_size(tmp_path: Path) -> None:
    for name, count in (("one", 2), ("two", 6)):
        write_questions(tmp_path / f"{name}.json", count)
    preparer = tiny_qwen2_5_vl().preparer

    def share(*weights: float | None) -> float:
        sources = [
            Source(path=f"{name}.json", weight=weight)
            for name, weight in zip(("one", "two"), weights, strict=True)
        ]
        mixed = build_mixture(sources, preparer, tmp_path, seed=3)
        origins = [mixed.sample_at(index).origin for index in range(400)]
        return sum("one.json" in origin for origin in origins) / 400

    assert share(None, None) == pytest.approx(0.25, abs=0.02)
    assert share(3, 1) == pytest.approx(0.75, abs=0.02)
    with pytest.raises(ConfigError, match=r"sources \['0: one.json'\] have no weight while others"):
        share(None, 1)


def test_counts_cut_a_file_at_its_start(tmp_path: Path) -> None:
    write_questions(tmp_path / "one.json", 5)
    preparer = tiny_qwen2_5_vl().preparer
    sources = [Source(path="one.json", count=2), Source(world="shapes", count=3, questions=1)]
    samples = list_samples(sources, preparer, tmp_path)
    assert len(samples) == 5
    texts = [str(turn.parts[-1]) for sample in samples[:2] for turn in sample.turns]
    assert texts[1::2] == ["thing 0", "thing 1"]


def test_a_world_without_questions_gives_pictures_and_dense_labels() -> None:
    processor = Qwen2VLImageProcessor(
        patch_size=4, merge_size=2, size={"shortest_edge": 64, "longest_edge": 112 * 112}
    )
    preparer = QwenImages(processor, patch=4, merge=2)
    (sample,) = list_samples(
        [Source(world="shapes", count=1, questions=0, dense=True)], preparer, Path()
    )
    assert [turn.role for turn in sample.turns] == ["user"]
    geometry = preparer.prepare([load_image(sample.images[0])]).geometries[0]
    assert {labels.shape for labels in sample.truth["cells"].values()} == {
        (geometry.rows, geometry.columns)
    }


def test_missing_files_are_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"nothing.json"):
        list_samples([Source(path="nothing.json")], tiny_qwen2_5_vl().preparer, tmp_path)
