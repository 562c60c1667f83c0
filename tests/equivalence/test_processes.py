"""Two processes with half the batch each train as one process with the whole batch."""

from __future__ import annotations

import json
import multiprocessing
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from tests.equivalence.processes_run import ONE_STAGE, TWO_STAGES, exit_codes, free_port, run

CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload(
    ["tests.equivalence.processes_run", "tests.equivalence.training_run"]
)

# Measured: 2.4e-7 at most in weights of size 1 after nine steps; sums are added in another order.
TOLERANCE = 3e-6


def launch(output: Path, count: int, **options: Any) -> list[int | None]:
    """Run `count` processes to their end; return their exit codes."""
    output.mkdir(exist_ok=True)
    port = free_port()
    options.setdefault("metric", "bias")
    processes = [
        CONTEXT.Process(target=run, args=(rank, count, port, str(output), options))
        for rank in range(count)
    ]
    return exit_codes(processes)


def lines(output: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (output / "metrics.jsonl").read_text().splitlines()]


def assert_close(found: Path, expected: Path) -> None:
    for one, other in zip(lines(found), lines(expected), strict=True):
        assert one["tokens"] == other["tokens"] and one["samples"] == other["samples"]
        assert one["learning_rates"] == other["learning_rates"]
        assert one["loss"] == pytest.approx(other["loss"], abs=TOLERANCE)
        assert one["terms"] == pytest.approx(other["terms"], abs=TOLERANCE)
        assert one["gradient_norm"] == pytest.approx(other["gradient_norm"], abs=TOLERANCE)
    last = f"checkpoints/step-{lines(expected)[-1]['step']}/model.safetensors"
    weights, wanted = load_file(found / last), load_file(expected / last)
    assert weights.keys() == wanted.keys()
    for name, tensor in wanted.items():
        assert float((weights[name] - tensor).abs().max()) <= TOLERANCE, name


@pytest.mark.parametrize("accumulation", [1, 2])
def test_two_processes_are_one(tmp_path: Path, accumulation: int) -> None:
    options: dict[str, Any] = {"stages": TWO_STAGES, "accumulation": accumulation}
    assert launch(tmp_path / "two", 2, batch_size=3, **options) == [0, 0]
    assert launch(tmp_path / "one", 1, batch_size=6, **options) == [0]
    assert_close(tmp_path / "two", tmp_path / "one")


@pytest.mark.parametrize("message", [50, 10**6])
def test_parts_that_only_some_processes_use(tmp_path: Path, message: int) -> None:
    """The first step of the stage shows it; nobody waits for ever, and the result is the same."""
    options: dict[str, Any] = {"stages": TWO_STAGES, "model": "one-eyed", "message": message}
    assert launch(tmp_path / "two", 2, batch_size=1, **options) == [0, 0]
    options["accumulation"] = 2
    assert launch(tmp_path / "one", 1, batch_size=1, **options) == [0]
    assert_close(tmp_path / "two", tmp_path / "one")


def test_gradients_that_differ_are_named(tmp_path: Path) -> None:
    exits = launch(
        tmp_path, 2, stages=ONE_STAGE, model="one-eyed", batch_size=1, check_gradients=True
    )
    assert exits == [3, 3]
    for rank in range(2):
        message = (tmp_path / f"error-{rank}.txt").read_text()
        assert message.startswith("TrainingError: ")
        assert "encoder.right/0.weight: no gradient on process [" in message
        assert "uneven_gradients" in message


def test_a_signal_to_one_process_ends_all_after_the_same_step(tmp_path: Path) -> None:
    options: dict[str, Any] = {"stages": TWO_STAGES, "batch_size": 3}
    straight, cut = tmp_path / "straight", tmp_path / "cut"
    assert launch(straight, 2, **options) == [0, 0]
    assert launch(cut, 2, signalled=(1, 5), **options) == [0, 0]
    assert json.loads((cut / "report.json").read_text()) == {"step": 6, "interrupted": True}
    assert launch(cut, 2, resume=True, **options) == [0, 0]
    assert [row["loss"] for row in lines(cut)] == [row["loss"] for row in lines(straight)]


def test_a_resumed_run_of_two_processes_is_the_same(tmp_path: Path) -> None:
    """With dropout: each process goes on with its own random generators."""
    options: dict[str, Any] = {
        "stages": TWO_STAGES,
        "dropout": 0.17,
        "batch_size": 3,
        "checkpoint_every": 5,
        "keep": 5,
    }
    straight = tmp_path / "straight"
    assert launch(straight, 2, **options) == [0, 0]
    cut = tmp_path / "cut"
    cut.mkdir()
    subprocess.run(["cp", "-r", str(straight) + "/.", str(cut)], check=True)
    subprocess.run(["rm", "-r", str(cut / "checkpoints" / "step-9")], check=True)
    assert launch(cut, 2, resume=True, **options) == [0, 0]
    for one, other in zip(lines(cut), lines(straight), strict=True):
        assert {**one, "seconds": 0} == {**other, "seconds": 0}
    for rank in range(2):
        name = f"checkpoints/step-9/generators-{rank}.safetensors"
        found, wanted = load_file(cut / name), load_file(straight / name)
        assert all(torch.equal(found[key], wanted[key]) for key in wanted)
    name = "checkpoints/step-9/optimizer-0.safetensors"
    found, wanted = load_file(cut / name), load_file(straight / name)
    assert all(torch.equal(found[key], wanted[key]) for key in wanted)


def test_another_number_of_processes_is_refused(tmp_path: Path) -> None:
    options: dict[str, Any] = {"stages": ONE_STAGE, "batch_size": 3}
    assert launch(tmp_path, 2, **options) == [0, 0]
    assert launch(tmp_path, 1, resume=True, **options) == [3]
    message = (tmp_path / "error-0.txt").read_text()
    assert "processes: started with 2, now 1" in message


@pytest.mark.slow
@pytest.mark.parametrize("launcher", ["torchrun", "accelerate"])
def test_launchers(tmp_path: Path, launcher: str, project_root: Path) -> None:
    """What users type: torchrun, and accelerate launch with the engine file."""
    engine = project_root / "src" / "chiasm" / "recipes" / "engines" / "ddp.yaml"
    port = str(free_port())
    starts = {
        "torchrun": ["torch.distributed.run", "--nproc-per-node", "2", "--master-port", port],
        "accelerate": [
            "accelerate.commands.launch",
            "--config_file",
            str(engine),
            "--num_processes",
            "2",
            "--main_process_port",
            port,
        ],
    }
    two = tmp_path / "two"
    two.mkdir()
    subprocess.run(
        [
            sys.executable,
            "-m",
            *starts[launcher],
            "-m",
            "tests.equivalence.processes_run",
            str(two),
        ],
        check=True,
        cwd=project_root,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        timeout=300,
    )
    one = tmp_path / "one"
    assert launch(one, 1, stages=TWO_STAGES, batch_size=6, accumulation=2) == [0]
    assert_close(two, one)
