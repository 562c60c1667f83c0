"""The stages that are timed are the stages of an answer."""

from __future__ import annotations

import json
from typing import Any

import pytest
import torch

from chiasm.core.errors import InputError, MediaError
from chiasm.inference.benchmark import benchmark, run_once
from chiasm.models.probes import probing
from tests.unit.inference.duals import IMAGE, asked, build_dual, build_host_alone

QUESTION = "What is it?"
NEW = 5


@pytest.fixture(scope="module")
def model() -> Any:
    return build_dual("qwen2_5_vl", "dinov2", "siglip")


def test_the_timed_steps_give_the_models_answer(model: Any) -> None:
    with probing(model):
        run = run_once(model, IMAGE, QUESTION, NEW)
        batch = model.collator.collate([asked(QUESTION)], generation=True)
        spliced = model._look(batch)[0]
        (tokens,) = model.host.generate(spliced, max_new_tokens=NEW, min_new_tokens=NEW)
    assert run.tokens == tokens
    assert run.prompt_tokens == batch.input_ids.shape[1]
    assert run.visual_tokens == batch.geometries[0].count


def test_every_stage_is_timed(model: Any) -> None:
    result = benchmark(model, IMAGE, QUESTION, repeats=3, warm_up=1, new_tokens=NEW)
    assert list(result.stages) == [
        "prepare",
        "encode host",
        "encode dinov2",
        "encode siglip",
        "fuse",
        "prefill",
        "decode",
        "total",
    ]
    for timing in result.stages.values():
        assert 0 < timing.least <= timing.median <= timing.most
    parts = sum(timing.least for name, timing in result.stages.items() if name != "total")
    assert parts <= result.stages["total"].least * (1 + 1e-9)
    fastest = (NEW - 1) * 1000 / result.stages["decode"].least
    slowest = (NEW - 1) * 1000 / result.stages["decode"].most
    assert slowest <= result.tokens_per_second * (1 + 1e-9)
    assert result.tokens_per_second <= fastest * (1 + 1e-9)
    assert (result.repeats, result.new_tokens, result.image) == (3, NEW, (61, 83))
    assert result.peak_memory is None or result.peak_memory > 50 * 2**20
    document = json.loads(json.dumps(result.document()))
    assert document["milliseconds"]["fuse"]["median"] == result.stages["fuse"].median
    assert document["threads"] == torch.get_num_threads()


def test_a_host_alone_has_no_fusion() -> None:
    result = benchmark(build_host_alone(), IMAGE, QUESTION, repeats=1, warm_up=0, new_tokens=2)
    assert list(result.stages) == ["prepare", "encode host", "prefill", "decode", "total"]


def test_numbers_and_images_are_checked(model: Any) -> None:
    with pytest.raises(InputError, match="0 repeats, 0 for warm-up, 5 new tokens; allowed"):
        benchmark(model, IMAGE, QUESTION, repeats=0, warm_up=0, new_tokens=NEW)
    with pytest.raises(InputError, match="1 new tokens"):
        benchmark(model, IMAGE, QUESTION, new_tokens=1)
    with pytest.raises(MediaError, match="does not exist"):
        benchmark(model, "gone.png", QUESTION)
