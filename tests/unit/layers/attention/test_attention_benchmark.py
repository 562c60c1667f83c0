"""The attention benchmark at a tiny size: every figure is there, and targets are held to."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from benchmarks import attention


@pytest.mark.slow
def test_the_benchmark_measures_every_type(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    threads, output = torch.get_num_threads(), tmp_path / "runs" / "attention.json"
    try:
        attention.main(["--quick", "--lengths", "29", "--output", str(output)])
    finally:
        torch.set_num_threads(threads)
    cases = json.loads(output.read_text())["cases"]
    assert len(cases) == 4
    for case in cases:
        names = {*attention.NAMES, *(attention.OTHERS if case["level"] == "core" else ())}
        assert set(case["seconds"]) == set(case["extra_mib"]) == names
        assert all(len(values) == 1 and values[0] > 0 for values in case["seconds"].values())
        assert case["clock"] == "processor"
    printed = capsys.readouterr().out
    assert all(printed.count(f"\n{name} ") == 4 for name in attention.NAMES)


def test_types_levels_and_passes_can_be_chosen(capsys: pytest.CaptureFixture[str]) -> None:
    chosen = ["--types", "sdpa", "linear", "--levels", "core", "--passes", "both"]
    attention.main(["--quick", "--no-memory", "--lengths", "13", "17", *chosen])
    printed = capsys.readouterr().out
    assert printed.count("forward and backward") == 2
    assert printed.count("\nlinear") == 2
    assert "strided" not in printed


@pytest.mark.parametrize("passes", attention.PASSES)
@pytest.mark.parametrize("level", attention.LEVELS)
def test_every_way_runs_what_it_says(level: str, passes: str) -> None:
    count = 29
    made = attention.ways(level, passes, attention.QUICK, count, attention.NAMES)
    results = {name: way() for name, way in made.items()}
    first = {name: r if isinstance(r, torch.Tensor) else r[0] for name, r in results.items()}
    # Naive and SDPA are the same function and start from the same inputs; others differ.
    assert level == "module" or (first["naive"] - first["sdpa"]).abs().max() < 1e-5
    assert all((first[n] - first["sdpa"]).abs().max() > 1e-4 for n in ("strided", "local_global"))
    assert all(isinstance(r, tuple) is (passes == "both") for r in results.values())


def test_targets_are_held_to_ratios_within_rounds() -> None:
    case: dict[str, Any] = {
        "level": "core", "passes": "forward", "length": 4096,
        "seconds": {"sdpa": [8.0, 9.0, 30.0], "strided": [2.0, 3.0, 6.0], "linear": [2.0] * 3},
        "extra_mib": {"sdpa": 10.0, "performer": 14.0},
    }  # fmt: skip
    targets = [
        attention.Target("strided", "core", "forward", 4096, "faster", "sdpa", 4.0),
        attention.Target("strided", "core", "forward", 4096, "faster", "sdpa", 4.1),
        attention.Target("strided", "core", "forward", 4096, "faster", "naive", 1.0),
        attention.Target("strided", "core", "forward", 8192, "faster", "sdpa", 4.1),
        attention.Target("performer", "core", "forward", 4096, "smaller", "sdpa", 1.4),
        attention.Target("performer", "core", "forward", 4096, "smaller", "sdpa", 1.3),
    ]
    found = attention.judge([case], targets)
    assert [(t["name"], t["value"], t["met"]) for t in found] == [
        ("strided", 4.0, True),
        ("strided", 4.0, False),
        ("performer", 1.4, True),
        ("performer", 1.4, False),
    ]


def test_floors_are_the_arithmetic_of_the_mechanisms() -> None:
    sizes, count = attention.Sizes(), 4096
    dense = attention.operations("sdpa", sizes, count)
    assert dense == 4 * 4096 * 4096 * 768
    bounds = {n: dense / attention.operations(n, sizes, count) for n in attention.NAMES}
    assert bounds["strided"] == 4
    assert bounds["cross_memory"] == 64
    assert bounds["performer"] == 16
    assert bounds["linear"] == 32
    assert bounds["local_global"] == pytest.approx(4096 / 273)
    assert attention.memory_floor("forward", sizes, count) == 12
    assert attention.memory_floor("both", sizes, count) == 48
