"""A run that is killed and resumed is, bit for bit, the run that was left alone."""

from __future__ import annotations

import json
import multiprocessing
import random
import signal
import time
from multiprocessing.process import BaseProcess
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from tests.equivalence import training_run
from tests.equivalence.training_run import STEPS, run

CONTEXT = multiprocessing.get_context("forkserver")
# The server imports torch once; each run is then a process of its own within a moment.
CONTEXT.set_forkserver_preload(["tests.equivalence.training_run"])


def start(output: Path, **options: object) -> BaseProcess:
    process = CONTEXT.Process(target=run, args=(str(output),), kwargs=options)
    process.start()
    return process


def finish(output: Path, **options: object) -> int | None:
    process = start(output, **options)
    process.join(120)
    return process.exitcode


@pytest.fixture(scope="module")
def straight(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run that nobody disturbs."""
    output = tmp_path_factory.mktemp("straight")
    assert finish(output) == 0
    return output


def lines(output: Path) -> list[dict[str, object]]:
    rows = [json.loads(line) for line in (output / "metrics.jsonl").read_text().splitlines()]
    return [{key: value for key, value in row.items() if key != "seconds"} for row in rows]


def assert_same_run(output: Path, expected: Path) -> None:
    """Losses, evaluations, steps, weights, averages, optimizer and generators, to the last bit."""
    assert lines(output) == lines(expected)
    last = f"checkpoints/step-{STEPS}"
    for name in (
        "model.safetensors",
        "receipt.safetensors",
        f"{last}/model.safetensors",
        f"{last}/training.safetensors",
        f"{last}/optimizer-0.safetensors",
        f"{last}/generators-0.safetensors",
    ):
        found, wanted = load_file(output / name), load_file(expected / name)
        assert found.keys() == wanted.keys()
        different = [key for key in wanted if not torch.equal(found[key], wanted[key])]
        assert not different, f"{name}: {different}"
    assert not list(output.rglob(".partial-*"))


def test_straight_run_logs_each_step_once(straight: Path) -> None:
    assert [row["step"] for row in lines(straight)] == list(range(1, STEPS + 1))
    assert sum("evaluation" in row for row in lines(straight)) == 6


@pytest.mark.parametrize("step", [2, 5, 7, 8, 9, 13, 16])
def test_killed_after_a_step(straight: Path, tmp_path: Path, step: int) -> None:
    """Steps 2 and 13 lie past a checkpoint's middle, 7 ends a stage, 8 and 9 are audited."""
    killed = finish(tmp_path, kill=("step", step))
    assert killed == -signal.SIGKILL
    if step == 2:
        # Nothing had been saved: the run starts again in the same place.
        assert finish(tmp_path) == 0
    else:
        assert finish(tmp_path, resume=True) == 0
    assert_same_run(tmp_path, straight)


@pytest.mark.parametrize("count", [31, 37, 41, 43, 47, 53, 59, 61, 67])
def test_killed_while_writing(straight: Path, tmp_path: Path, count: int) -> None:
    """Whatever file was being written, an earlier checkpoint is whole."""
    assert finish(tmp_path, kill=("sync", count)) == -signal.SIGKILL
    before = {path.name for path in (tmp_path / "checkpoints").glob("step-*")}
    assert before
    assert finish(tmp_path, resume=True) == 0
    assert_same_run(tmp_path, straight)


def test_killed_from_outside_again_and_again(straight: Path, tmp_path: Path) -> None:
    """Another process kills at moments of its own choosing, and the run still arrives."""
    draws = random.Random(23)
    metrics = tmp_path / "metrics.jsonl"
    kills = 0
    process = start(tmp_path)
    for aim in (4, 9, 14):
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline and process.is_alive():
            if metrics.is_file() and len(metrics.read_text().splitlines()) >= aim:
                break
            time.sleep(0.001)
        time.sleep(draws.uniform(0, 0.02))
        process.kill()
        process.join(60)
        kills += process.exitcode == -signal.SIGKILL
        process = start(tmp_path, resume=True)
    process.join(120)
    assert process.exitcode == 0
    assert kills >= 2
    assert_same_run(tmp_path, straight)


def test_resuming_a_finished_run_changes_nothing(straight: Path, tmp_path: Path) -> None:
    assert finish(tmp_path) == 0
    assert finish(tmp_path, resume=True) == 0
    assert_same_run(tmp_path, straight)


def test_settings_use_what_resuming_could_lose() -> None:
    """The comparison means little unless all of this is on."""
    settings = training_run.SETTINGS
    assert settings.ema and settings.accumulation > 1 and len(settings.stages) == 2
    assert settings.patience and settings.evaluate_every and settings.order == "shuffle"
