"""The benchmark of domains at a tiny size: every variant is there, and learns what it says."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from benchmarks import domains
from benchmarks.domain_watcher import NAMES, QUICK, Watcher, draw_clips, look


def test_the_benchmark_measures_everything(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    threads = torch.get_num_threads()
    path = tmp_path / "runs" / "domains.json"
    try:
        domains.main(["--quick", "--seeds", "0", "3", "--output", str(path)])
    finally:
        torch.set_num_threads(threads)
    document = json.loads(path.read_text())
    assert tuple(document["table"]) == domains.VARIANTS
    assert all(len(row["mean"]) == 2 for row in document["table"].values())
    assert document["table"]["shared x 4"]["numbers"] == document["table"]["oracle"]["numbers"]
    printed = capsys.readouterr().out
    assert all(name in printed for name in (*domains.VARIANTS, *NAMES, "shared x 4 on every"))


def test_every_variant_trains_what_it_says_and_starts_as_the_frozen_model() -> None:
    torch.manual_seed(0)
    model = Watcher(QUICK).eval().requires_grad_(False)
    seen = look(model, draw_clips(QUICK, NAMES, "train", 8, 0))
    with torch.no_grad():
        before = model.read(seen.tokens)
    for name in domains.VARIANTS:
        variant = domains.Variant(model, name, QUICK)
        with torch.no_grad(), variant.through(variant.route(seen)):
            assert torch.equal(variant.model.read(seen.tokens), before), name
        if name == "nothing":
            assert variant.trained == []
            continue
        variant.loss(seen).backward()
        moving = [value for value in variant.trained if value.grad is not None]
        # A fresh router that takes one choice may send all videos through the same adapter.
        assert len(moving) > 0.25 * len(variant.trained), name
        frozen = {id(value) for value in variant.trained}
        others = [p for p in variant.model.parameters() if id(p) not in frozen]
        assert all(value.grad is None for value in others), name
    assert torch.bincount(seen.domains, minlength=4).tolist() == [2, 2, 2, 2]
