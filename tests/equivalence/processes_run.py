"""One of several processes of a training run."""

from __future__ import annotations

import io
import json
import os
import signal
import socket
import sys
from collections.abc import Mapping, Sequence
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import torch

# The optimizer imports it in its first step; imported here, a server of processes does so once.
import torch._dynamo
from rich.console import Console

from chiasm.core.batch import Batch
from chiasm.core.errors import ChiasmError
from chiasm.core.outputs import Outputs
from chiasm.training import engine
from chiasm.training.loop import Trainer
from chiasm.training.settings import StageSettings, TrainingSettings
from tests.unit.training.small import SmallData, SmallModel, SmallObjective, collate

ONE_STAGE = (StageSettings(name="all", steps=7, train=("*",), learning_rate=1e-2),)
TWO_STAGES = (
    StageSettings(name="fusion", steps=4, train=("fusion",), learning_rate=1e-2),
    StageSettings(
        name="all", steps=5, train=("*",), learning_rate=1e-2, loss_weights={"gate": 0.3}
    ),
)


def exit_codes(processes: Sequence[BaseProcess]) -> list[int | None]:
    """Run processes to their end, two minutes at most; return their exit codes."""
    for process in processes:
        process.start()
    for process in processes:
        process.join(120)
        if process.is_alive():
            process.kill()
    return [process.exitcode for process in processes]


class OneEyed(SmallModel):
    """Uses its right encoder and the gate only in batches that hold an even first token."""

    def forward(self, batch: Batch) -> Outputs:
        even = bool((batch.input_ids[:, 0] % 2 == 0).any())
        if even:
            return super().forward(batch)
        tokens = self.embedding(batch.input_ids)
        logits = self.head(tokens + self.output(self.left(tokens)))
        chosen = batch.labels[:, 1:] != -100
        return Outputs(
            logits=logits[:, :-1][chosen],
            targets=batch.labels[:, 1:][chosen],
            named={"gate": torch.full((len(batch),), 0.5)},
        )


def train(output: str, *, model: str = "small", dropout: float = 0.0, **settings: Any) -> None:
    """Train; write `report.json`, or `error-RANK.txt` when the run refuses to go on.

    Args:
        output: The run directory.
        model: `small` or `one-eyed`.
        dropout: Of the model.
        settings: Settings of the trainer, and `resume`; `message`, the numbers in one message
            between processes; `signalled`, a (rank, step) at which a process gets SIGTERM.
    """
    torch.set_num_threads(1)
    resume = settings.pop("resume", False)
    engine._MESSAGE = settings.pop("message", engine._MESSAGE)
    signalled = settings.pop("signalled", None)
    kinds = {"small": SmallModel, "one-eyed": OneEyed}
    built = kinds[model](dropout=dropout)
    path = Path(output)
    rank = os.environ.get("RANK", "0")
    try:
        trainer = Trainer(
            model=built,
            objective=SmallObjective(),
            dataset=SmallData(29),
            collate=collate,
            settings=TrainingSettings(log_every=1, epsilon=1e-3, **settings),
            output=path,
            resume=resume,
            evaluate=lambda: {"bias": float(built.head[1].bias[0])},
            console=Console(file=io.StringIO()),
        )
        if signalled is not None and signalled[0] == trainer.processes.rank:
            _arm(trainer, signalled[1])
        report = trainer.train()
    except ChiasmError as error:
        (path / f"error-{rank}.txt").write_text(f"{type(error).__name__}: {error}")
        raise SystemExit(3) from None
    if trainer.processes.is_main:
        (path / "report.json").write_text(
            json.dumps({"step": report.step, "interrupted": report.interrupted})
        )


def _arm(trainer: Trainer, step: int) -> None:
    read = trainer.scorer.objective.count

    def count(batch: Batch) -> Mapping[str, float]:
        if trainer.state.step == step:
            os.kill(os.getpid(), signal.SIGTERM)
        return read(batch)

    trainer.scorer.objective.count = count  # type: ignore[method-assign]


def run(rank: int, count: int, port: int, output: str, options: Mapping[str, Any]) -> None:
    """Be process `rank` of `count`."""
    os.environ.update(
        RANK=str(rank),
        LOCAL_RANK=str(rank),
        WORLD_SIZE=str(count),
        LOCAL_WORLD_SIZE=str(count),
        MASTER_ADDR="127.0.0.1",
        MASTER_PORT=str(port),
    )
    train(output, **options)
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()


def free_port() -> int:
    """A port that nobody listens on."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


if __name__ == "__main__":
    # Under torchrun or accelerate launch, which set the process's place.
    train(sys.argv[1], stages=TWO_STAGES, batch_size=3, accumulation=2, metric="bias")
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()
