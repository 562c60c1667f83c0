"""DeepSpeed ZeRO-2 on two processes trains as one process without it, and resumes exactly."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from tests.equivalence.processes_run import free_port
from tests.equivalence.test_processes import assert_close, launch, lines
from tests.equivalence.zero_run import OPTIONS

pytestmark = [pytest.mark.deepspeed, pytest.mark.slow]


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory, project_root: Path) -> Path:
    """The runs of `zero_run`, launched as users launch them."""
    if importlib.util.find_spec("deepspeed") is None:
        pytest.skip("deepspeed is not installed; pip install 'chiasm[deepspeed]'")
    output = tmp_path_factory.mktemp("zero")
    engine = project_root / "src" / "chiasm" / "recipes" / "engines" / "zero2.yaml"
    command = [sys.executable, "-m", "accelerate.commands.launch", "--config_file", str(engine)]
    command += ["--num_processes", "2", "--main_process_port", str(free_port())]
    command += ["-m", "tests.equivalence.zero_run", str(output)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    if not torch.accelerator.is_available():
        environment["DS_ACCELERATOR"] = "cpu"
    # The first launch on a machine compiles for two or three minutes.
    subprocess.run(command, check=True, cwd=project_root, env=environment, timeout=580)
    return output


def test_it_trains_as_one_process_without(runs: Path, tmp_path: Path) -> None:
    assert launch(tmp_path / "one", 1, batch_size=6, **OPTIONS) == [0]
    assert_close(runs / "plain", tmp_path / "one")


def test_a_resumed_run_is_the_same(runs: Path) -> None:
    """Bit for bit, with dropout: shares of the optimizer, averages and generators come back."""
    for one, other in zip(lines(runs / "cut"), lines(runs / "whole"), strict=True):
        assert {**one, "seconds": 0} == {**other, "seconds": 0}
    names = [f"{kind}-{rank}" for kind in ("optimizer", "generators") for rank in range(2)]
    for name in (*names, "training", "model"):
        file = f"checkpoints/step-9/{name}.safetensors"
        found, wanted = load_file(runs / "cut" / file), load_file(runs / "whole" / file)
        assert found.keys() == wanted.keys()
        assert all(torch.equal(found[key], wanted[key]) for key in wanted), name


def test_bf16_is_of_the_arithmetic_and_not_of_the_weights(runs: Path) -> None:
    losses = [[row["loss"] for row in lines(runs / name)] for name in ("bf16", "plain")]
    assert losses[0] != losses[1] and losses[0] == pytest.approx(losses[1], rel=2e-2)
    tensors = load_file(runs / "bf16" / "checkpoints" / "last" / "model.safetensors")
    assert {tensor.dtype for tensor in tensors.values()} == {torch.float32}


def test_each_process_keeps_half_of_the_state(runs: Path) -> None:
    shares = [
        load_file(runs / f"whole/checkpoints/step-9/optimizer-{rank}.safetensors")
        for rank in range(2)
    ]
    numbers = [sum(t.numel() for k, t in one.items() if k.endswith("exp_avg")) for one in shares]
    trained = sum(t.numel() for t in load_file(runs / "whole" / "model.safetensors").values())
    # Shares are padded to equal length, one group a part and kind.
    assert trained <= sum(numbers) < trained + 40 and numbers[0] == numbers[1]


def test_stages_that_train_different_parts_are_refused(runs: Path) -> None:
    for rank in range(2):
        message = (runs / "refused" / f"error-{rank}.txt").read_text()
        assert message.startswith("ConfigError: the stages train different parts, which cannot be")
        assert "launch with ddp.yaml" in message
