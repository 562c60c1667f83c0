"""One process of a launch with DeepSpeed: a whole run, a refused one, and a resumed one."""

from __future__ import annotations

import contextlib
import shutil
import sys
from pathlib import Path
from typing import Any

import torch

from chiasm.training.settings import StageSettings
from tests.equivalence.processes_run import TWO_STAGES, train

STAGES = (
    StageSettings(name="one", steps=4, train=("fusion", "head"), learning_rate=1e-2),
    StageSettings(
        name="two",
        steps=5,
        train=("fusion", "head"),
        learning_rate=5e-3,
        learning_rates={"head": 1e-2},
        loss_weights={"gate": 0.3},
        warmup=2,
    ),
)

OPTIONS: dict[str, Any] = {
    "stages": STAGES,
    "accumulation": 2,
    "metric": "bias",
    "checkpoint_every": 5,
    "keep": 5,
    "ema": 0.9,
    # Low enough that it clips.
    "clip_norm": 0.1,
}


def main(output: Path) -> None:
    """Leave `whole`, `cut`, `plain`, `bf16` and `refused` in the output directory."""
    for name in ("whole", "refused"):
        (output / name).mkdir(exist_ok=True)
    train(str(output / "whole"), batch_size=3, dropout=0.17, **OPTIONS)
    torch.distributed.barrier()
    if torch.distributed.get_rank() == 0:
        shutil.copytree(output / "whole", output / "cut", symlinks=True)
        shutil.rmtree(output / "cut" / "checkpoints" / "step-9")
    torch.distributed.barrier()
    train(str(output / "cut"), batch_size=3, dropout=0.17, resume=True, **OPTIONS)
    train(str(output / "plain"), batch_size=3, **OPTIONS)
    train(str(output / "bf16"), batch_size=3, precision="bf16", **OPTIONS)
    with contextlib.suppress(SystemExit):
        train(str(output / "refused"), batch_size=3, **{**OPTIONS, "stages": TWO_STAGES})
    torch.distributed.destroy_process_group()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
