"""The merging benchmark at a tiny size: every figure is there, and its encoder is the library's."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from benchmarks import merging


def test_the_benchmark_measures_everything(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    threads = torch.get_num_threads()
    try:
        merging.main(["--quick", "--output", str(tmp_path / "runs" / "merging.json")])
    finally:
        torch.set_num_threads(threads)
    results = json.loads((tmp_path / "runs" / "merging.json").read_text())
    assert {"plain", "some each layer", "half once"} < set(results["seconds"])
    assert all(len(values) == 1 and values[0] > 0 for values in results["seconds"].values())
    assert set(merging.TARGETS) <= set(results["ratios"])
    printed = capsys.readouterr().out
    assert all(name in printed for name in (*results["seconds"], *results["ratios"]))
    assert ">= 1.6" in printed


@torch.no_grad()
def test_layers_that_merge_nothing_are_the_library_s_layers() -> None:
    shape = merging.SHAPES["quick"]
    plain = merging.Encoder(shape).run()
    assert torch.equal(merging.Encoder(shape, lambda place, count: 0).run(), plain)


@torch.no_grad()
def test_merging_layers_leave_what_they_promise() -> None:
    shape = merging.SHAPES["quick"]
    found = merging.encoders(shape)
    counts = {name: encoder.run().shape[1] for name, encoder in found.items()}
    assert counts == {"plain": 50, "some each layer": 35, "half once": 26}
    for name in ("some each layer", "half once"):
        sizes = found[name].merged.sizes
        assert sizes.sum(1).tolist() == [50.0, 50.0]
        assert sizes[:, 0].tolist() == [1.0, 1.0]


@torch.no_grad()
def test_size_in_the_scores_counts_every_token() -> None:
    shape = merging.SHAPES["quick"]
    encoder = merging.Encoder(shape, lambda place, count: 24 if place == 0 else 0)
    plain = merging.Encoder(shape)
    # Pictures whose two columns of patches repeat, without positions: every token has its double.
    for each in (encoder, plain):
        each.model.embeddings.position_embeddings.zero_()
        patch = shape.patch
        half = torch.randn(1, 3, patch * 7, patch, generator=torch.Generator().manual_seed(0))
        each.pixels = half.repeat(1, 1, 1, 7)
    found, wanted = encoder.run()[:, 0], plain.run()[:, 0]
    torch.testing.assert_close(found, wanted, rtol=0, atol=1e-5)


def test_ratios_are_taken_within_a_round() -> None:
    times = {
        "plain": [4.0, 8.0, 6.0],
        "some each layer": [2.0, 2.0, 2.0],
        "half once": [4.0, 4.0, 4.0],
        "frame difference": [0.4, 0.8, 3.0],
    }
    found = merging.ratios(times)
    assert found["speed-up: some each layer"] == {"median": 3.0, "least": 2.0, "largest": 4.0}
    assert found["share of the encoder: frame difference"]["median"] == pytest.approx(0.1)
    assert len(found) == 3
