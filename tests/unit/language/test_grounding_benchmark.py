"""The grounding benchmark at a tiny size: every figure is there, all ways give the same maps."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from benchmarks import grounding


@pytest.mark.slow
def test_the_benchmark_measures_every_way(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    threads = torch.get_num_threads()
    try:
        grounding.main(["--quick", "--output", str(tmp_path / "runs" / "grounding.json")])
    finally:
        torch.set_num_threads(threads)
    results = json.loads((tmp_path / "runs" / "grounding.json").read_text())
    ways = {"plain", "published", "tap", "first phrase", "further phrase"}
    assert set(results["seconds"]) == set(results["extra_mib"]) == ways
    assert all(len(values) == 1 and values[0] > 0 for values in results["seconds"].values())
    assert results["clock"] == "processor" and results["threads"] == 1
    printed = capsys.readouterr().out
    assert all(name in printed for name in (*ways, *results["ratios"]))


@pytest.mark.parametrize("shape", ["quick", "quick-deepseek"])
@torch.no_grad()
def test_all_ways_give_the_same_maps_and_states(shape: str) -> None:
    found = grounding.differences(grounding.Reader(grounding.SHAPES[shape]))
    assert found["largest map value"] > 0.01
    for way in ("tap", "first phrase"):
        assert found[f"{way}, maps"] < 1e-6
        assert found[f"{way}, states relative"] < 1e-5


def test_ratios_are_taken_within_a_round() -> None:
    times = {
        "plain": [1.0, 2.0, 4.0],
        "published": [3.0, 8.0, 4.0],
        "tap": [1.0, 2.0, 2.0],
        "first phrase": [5.0, 6.0, 8.0],
        "further phrase": [0.5, 0.5, 0.5],
    }
    memory = dict.fromkeys(times, 2.0) | {"published": 70.0}
    found = grounding.ratios(times, memory)
    assert found["time: published / tap"] == {"median": 3.0, "least": 2.0, "largest": 4.0}
    assert found["time: tap / plain"] == {"median": 1.0, "least": 0.5, "largest": 1.0}
    assert found["time: first / further phrase"]["median"] == 12.0
    assert found["memory: published / tap"] == 35.0
