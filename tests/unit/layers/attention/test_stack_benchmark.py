"""The benchmark of whole readers at a tiny size: stacks are what their names say."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from torch import Tensor

from benchmarks import attention_stacks as stacks
from benchmarks.attention import judge

COUNT = 32


def both(name: str) -> tuple[Tensor, list[Tensor]]:
    """What a stack reads, and gradients of a weighted sum of it."""
    stack = stacks.Stack(name, stacks.QUICK, COUNT)
    generator = torch.Generator().manual_seed(3)
    x = torch.randn(1, COUNT, stacks.QUICK.width, generator=generator, requires_grad=True)
    read = stack(x)
    weights = torch.randn(read.shape, generator=generator)
    return read, list(torch.autograd.grad((read * weights).sum(), [x, *stack.parameters()]))


def same(one: str, other: str) -> bool:
    (read, gradients), (told, expected) = both(one), both(other)
    pairs = zip([read, *gradients], [told, *expected], strict=True)
    return all(a.shape == b.shape and torch.allclose(a, b, rtol=1e-3, atol=1e-4) for a, b in pairs)


def test_stacks_read_what_their_names_say() -> None:
    assert same("naive", "sdpa")
    for name in ("sdpa", "sdpa+merge", "performer+merge"):
        assert same(name, f"{name}+checkpoint")
    for name in ("performer", "local_global", "sdpa+merge"):
        assert not same(name, "sdpa")
    assert not same("performer+merge", "sdpa+merge")


def test_what_is_timed_is_forward_or_both() -> None:
    for passes, count in (("forward", 1), ("both", 1 + len(both("sdpa")[1][1:]))):
        made = stacks.ways(passes, stacks.QUICK, COUNT, stacks.STACKS)
        for way in made.values():
            found = way()
            assert (1 if isinstance(found, Tensor) else len(found)) == count


@pytest.mark.parametrize("name", stacks.STACKS)
def test_merging_leaves_half_of_the_tokens(name: str) -> None:
    stack = stacks.Stack(name, stacks.QUICK, COUNT)
    read = stack(torch.randn(1, COUNT, stacks.QUICK.width))
    assert read.shape == (1, COUNT // 2 if "merge" in name else COUNT, stacks.QUICK.width)


@pytest.mark.slow
def test_the_program_tells_time_memory_and_targets(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    threads, output = torch.get_num_threads(), tmp_path / "stacks.json"
    try:
        stacks.main(["--quick", "--lengths", "32", "--passes", "both", "--output", str(output)])
    finally:
        torch.set_num_threads(threads)
    (case,) = json.loads(output.read_text())["cases"]
    assert set(case["seconds"]) == set(case["extra_mib"]) == set(stacks.STACKS)
    assert capsys.readouterr().out.count("\n") == len(stacks.STACKS) + 3


def test_targets_are_held_to_what_was_measured() -> None:
    case = {
        "level": "stack",
        "passes": "both",
        "length": 4096,
        "seconds": {"naive": [8.0], "sdpa": [4.0], "sdpa+merge": [2.0]},
        "extra_mib": {"naive": 1000.0, "sdpa": 171.0, "sdpa+merge": 99.0},
    }
    told = {(t["name"], t["kind"], t["baseline"]): t["met"] for t in judge([case], stacks.TARGETS)}
    assert told == {
        ("sdpa", "smaller", "naive"): False,
        ("sdpa+merge", "smaller", "naive"): True,
        ("sdpa+merge", "faster", "sdpa"): False,
    }
