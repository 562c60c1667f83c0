"""Processes that start a tokenizer from pictures of their own go on with the same weights."""

from __future__ import annotations

import multiprocessing
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from tests.equivalence.processes_run import exit_codes, free_port
from tests.equivalence.tokenizer_run import build, first_step, run

CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload(["tests.equivalence.tokenizer_run"])


@pytest.mark.parametrize("start", ["components", "spread"])
def test_the_pictures_of_the_first_process_decide(tmp_path: Path, start: str) -> None:
    port = free_port()
    processes = [
        CONTEXT.Process(target=run, args=(rank, 2, port, str(tmp_path), start)) for rank in (0, 1)
    ]
    assert exit_codes(processes) == [0, 0]
    first, second = (load_file(tmp_path / f"{rank}.safetensors") for rank in (0, 1))
    alone = [build(start), build(start)]
    for rank, model in enumerate(alone):
        first_step(model, rank)
    mine, others = (model.state_dict() for model in alone)
    started = [name for name in first if "encoder" in name or "conv" in name]
    assert any(not torch.equal(mine[name], others[name]) for name in started)
    for name in first:
        assert torch.equal(first[name], second[name]), name
    for name in started:
        assert torch.equal(first[name], mine[name]), name
