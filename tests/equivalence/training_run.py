"""One training run in a process of its own, which a test may kill at a chosen moment."""

from __future__ import annotations

import io
import os
import random
import signal
from pathlib import Path
from typing import Any

import numpy as np
import torch

# The optimizer imports it in its first step; imported here, a server of processes does so once.
import torch._dynamo
from rich.console import Console

from chiasm.training.loop import Trainer
from chiasm.training.settings import StageSettings, TrainingSettings
from tests.unit.training.small import SmallData, SmallModel, SmallObjective, collate, sample

STEPS = 17

SETTINGS = TrainingSettings(
    stages=(
        StageSettings(
            name="fusion",
            steps=7,
            train=("fusion",),
            learning_rate=2e-2,
            warmup=2,
            schedule="linear",
        ),
        StageSettings(
            name="all",
            steps=10,
            train=("*",),
            learning_rate=1e-2,
            learning_rates={"head": 3e-3},
            loss_weights={"gate": 0.3},
            warmup=0.2,
        ),
    ),
    batch_size=3,
    accumulation=2,
    ema=0.9,
    seed=11,
    metric="loss",
    mode="min",
    evaluate_every=3,
    checkpoint_every=2,
    log_every=1,
    patience=40,
)


def run(output: str, resume: bool = False, kill: tuple[str, int] | None = None) -> None:
    """Train to the end, or die on the way.

    Args:
        output: The run directory.
        resume: Go on from the newest checkpoint.
        kill: ("step", n) dies by SIGKILL once the optimizer has stepped n times; ("sync", n) on the
            n-th time that a file is synced, which lies inside the writing of checkpoints.
    """
    torch.set_num_threads(1)
    model = SmallModel(jitter=True)
    trainer = Trainer(
        model=model,
        objective=SmallObjective(),
        dataset=SmallData(29),
        collate=collate,
        settings=SETTINGS,
        output=Path(output),
        evaluate=lambda: evaluate(model),
        resume=resume,
        console=Console(file=io.StringIO()),
    )
    if kill is not None:
        _arm(trainer, *kill)
    trainer.train()


def evaluate(model: SmallModel) -> dict[str, float]:
    """Mean loss over five samples; draws from every generator, which must change nothing."""
    torch.rand(3)
    random.random()
    np.random.rand()
    batch = collate([sample(index) for index in range(5)])
    outputs = model(batch)
    loss = torch.nn.functional.cross_entropy(outputs.logits, outputs.targets)
    return {"loss": float(loss)}


def _arm(trainer: Trainer, where: str, count: int) -> None:
    def die() -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    if where == "step":
        update = trainer.engine.step

        def step() -> bool:
            stepped = update()
            if trainer.state.step + 1 == count:
                die()
            return stepped

        trainer.engine.step = step  # type: ignore[method-assign]
        return
    calls = 0
    fsync = os.fsync

    def counting(descriptor: Any) -> None:
        nonlocal calls
        calls += 1
        if calls == count:
            die()
        fsync(descriptor)

    os.fsync = counting  # type: ignore[assignment]
