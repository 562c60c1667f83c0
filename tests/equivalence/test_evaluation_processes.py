"""Two processes score the masks of a model as one does."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from chiasm.core.errors import ConfigError
from chiasm.evaluation.processes import join_processes
from chiasm.recipes.places import shipped_engines
from tests.equivalence.evaluation_run import SAMPLES, score
from tests.equivalence.processes_run import free_port

ENGINE = str(shipped_engines()["ddp"])
LAUNCHERS = {
    "torchrun": (
        *("torch.distributed.run", "--nproc-per-node=2", "--rdzv-backend=c10d"),
        "--rdzv-endpoint=localhost:0",
    ),
    "accelerate": (
        *("accelerate.commands.launch", "--config_file", ENGINE, "--num_processes", "2"),
        *("--main_process_port", str(free_port())),
    ),
}


def launch(launcher: str, folder: Path, root: Path) -> list[dict[str, Any]]:
    """Run two processes to their end; return what each wrote."""
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            *LAUNCHERS[launcher],
            "-m",
            "tests.equivalence.evaluation_run",
            str(folder),
        ],
        cwd=root,
        env={
            **os.environ,
            "PYTHONPATH": f"{root / 'src'}{os.pathsep}{root}",
            "OMP_NUM_THREADS": "1",
            # The engine asks for GPUs; without any, processes speak gloo.
            "ACCELERATE_USE_CPU": "true",
        },
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return [json.loads((folder / f"{rank}.json").read_text()) for rank in range(2)]


@pytest.mark.slow
@pytest.mark.parametrize("launcher", LAUNCHERS)
def test_two_processes_are_one(launcher: str, tmp_path: Path, project_root: Path) -> None:
    """An odd number of samples with unequal numbers of phrases; every number to the last bit."""
    first, second = launch(launcher, tmp_path, project_root)
    assert [first.pop("main"), second.pop("main")] == [True, False]
    names = [sample.identifier for sample in SAMPLES]
    assert [first.pop("seen"), second.pop("seen")] == [names[0::2], names[1::2]]
    assert first == second
    alone = score()[0]
    assert first["report"]["context"].pop("processes") == 2
    assert alone["report"]["context"].pop("processes") == 1
    assert first == alone


def test_processes_that_do_not_find_each_other(monkeypatch: pytest.MonkeyPatch) -> None:
    join_processes()
    monkeypatch.setenv("WORLD_SIZE", "3")
    with pytest.raises(ConfigError, match="launcher started 3 processes, but they see 1; each"):
        join_processes()
