"""The files of a run: description, checkpoints, published model; saving and resuming."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
import yaml
from torch import Tensor

from chiasm.core.errors import CheckpointError
from chiasm.training.audit import Audit
from chiasm.training.checkpoint import CheckpointStore, check_unchanged
from chiasm.training.durable import (
    finish_folder,
    partial_path,
    read_json,
    read_tensors,
    start_folder,
    write_json,
    write_tensors,
    write_text,
)
from chiasm.training.freezing import PartRow
from chiasm.training.randomness import capture_generators, restore_generators
from chiasm.training.state import TrainingState
from chiasm.training.weights import copy_model, load_model, part_tensors, save_model

if TYPE_CHECKING:
    from chiasm.training.loop import Trainer

TRAINING, STATE, PARTS = "training.safetensors", "state.json", "parts.json"


class RunFiles:
    """Reads and writes a run directory for a trainer.

    Args:
        trainer: Whose state is saved and restored.
        output: The run directory.
        describe: Text files by name.
    """

    def __init__(self, trainer: Trainer, output: Path, describe: Mapping[str, str]) -> None:
        self.trainer = trainer
        self.output = output
        self.describe = dict(describe)
        self.store = CheckpointStore(output, trainer.settings.keep)
        self._generators: Path | None = None
        self._stages: dict[str, Any] = {}

    def prepare(self, resume: bool) -> None:
        """Start a run directory, or go on from its newest checkpoint.

        Raises:
            CheckpointError: Nothing to resume from, or checkpoints are there and are not wanted.
            ConfigError: The run was started with other settings.
        """
        trainer = self.trainer
        if not resume and self.store.steps():
            raise CheckpointError(
                f"{self.output} holds checkpoints of an earlier run; resume it, or give another "
                "output directory"
            )
        trainer.processes.wait()
        if trainer.processes.is_main:
            self.store.prepare()
        trainer.processes.wait()
        if resume:
            self._load(self.store.newest())
        if trainer.processes.is_main:
            for name, text in self.describe.items():
                write_text(self.output / name, text)

    def keep(self, best: bool, stopping: bool) -> None:
        """Save a checkpoint if it is time, and publish the model if it is the one to have."""
        trainer = self.trainer
        every = trainer.settings.checkpoint_every
        due = every is not None and trainer.state.step % every == 0
        if not (due or best or stopping or trainer.finished):
            return
        if trainer.processes.is_main:
            trainer.reporter.records.sync()
        step = trainer.state.step
        self._save(step)
        if trainer.processes.is_main:
            self.store.mark("last", step)
            if best:
                self.store.mark("best", step)
            if best or (trainer.evaluate is None and trainer.finished):
                copy_model(self.store.path(step), self.output)
            self.store.prune()
        trainer.processes.wait()

    def write_parts(self, rows: Iterable[PartRow]) -> None:
        """Write `parts.json`: by stage what was declared, what trains, and what the audit saw."""
        trainer = self.trainer
        if not trainer.processes.is_main or trainer.audit is None:
            return
        self._stages[trainer.stage.name] = {
            "declared": list(trainer.stage.train),
            "parts": [asdict(row) for row in rows],
            "audit": {part: asdict(row) for part, row in trainer.audit.rows.items()},
            "audit_passed": not trainer.audit.open,
        }
        write_json(
            self.output / PARTS,
            {"saved": sorted(trainer.saved_parts), "stages": self._stages},
        )

    def restore_generators(self) -> bool:
        """Restore this process's random generators; return False when the run is a new one."""
        if self._generators is None:
            return False
        tensors, _ = read_tensors(self._generators)
        restore_generators(tensors)
        return True

    def _save(self, step: int) -> None:
        """Write a checkpoint; each process writes what it alone has."""
        trainer, processes = self.trainer, self.trainer.processes
        path = self.store.path(step)
        if processes.is_main:
            start_folder(path)
        processes.wait()
        folder = partial_path(path)
        write_tensors(folder / _own("generators", processes.rank), capture_generators())
        if processes.is_main or trainer.engine.shared_state:
            write_tensors(folder / _own("optimizer", processes.rank), trainer.engine.state())
        if processes.is_main:
            self._save_weights(folder)
            write_json(folder / STATE, self._state())
        processes.wait()
        if processes.is_main:
            finish_folder(path)
        processes.wait()

    def _save_weights(self, folder: Path) -> None:
        trainer, average = self.trainer, self.trainer.average
        if average is None:
            save_model(folder, trainer.model, trainer.saved_parts)
            return
        own = part_tensors(trainer.model, trainer.saved_parts)
        tensors = {f"weight/{name}": value for name, value in own.items()}
        tensors.update({f"average/{name}": value for name, value in average.averages.items()})
        # Written before the averages take the weights' place.
        write_tensors(folder / TRAINING, tensors)
        with average.applied(trainer.model):
            save_model(folder, trainer.model, trainer.saved_parts)

    def _state(self) -> dict[str, Any]:
        trainer = self.trainer
        scaler = trainer.accelerator.scaler
        return {
            "state": trainer.state.to_json(),
            "audit": None if trainer.audit is None else trainer.audit.to_json(),
            "scaler": None if scaler is None else scaler.state_dict(),
            "average_updates": 0 if trainer.average is None else trainer.average.updates,
            "uneven": trainer.engine.uneven,
            "terms": sorted(trainer.scorer.terms),
            "request": self._request(),
            "torch": torch.__version__,
        }

    def _request(self) -> dict[str, Any]:
        """What the run was asked for; a resumed run must be asked for the same."""
        trainer = self.trainer
        readers: dict[str, Callable[[str], Any]] = {
            ".yaml": yaml.safe_load,
            ".yml": yaml.safe_load,
            ".json": json.loads,
        }
        return {
            "settings": trainer.settings.model_dump(mode="json"),
            "processes": trainer.processes.count,
            "samples": len(trainer.dataset),
            "parameters": {
                part: sum(parameter.numel() for parameter in module.parameters())
                for part, module in trainer.model.parts.items()
            },
            "files": {
                name: readers.get(Path(name).suffix, str)(text)
                for name, text in self.describe.items()
            },
        }

    def _load(self, folder: Path) -> None:
        trainer = self.trainer
        saved = read_json(folder / STATE)
        check_unchanged(saved["request"], self._request())
        trainer.state = TrainingState.from_json(saved["state"])
        trainer.scorer.terms = set(saved["terms"])
        load_model(folder, trainer.module)
        rank = trainer.processes.rank
        share = _own("optimizer", rank if trainer.engine.shared_state else 0)
        trainer.engine.load_state(read_tensors(folder / share)[0])
        if trainer.average is not None:
            self._load_average(folder, saved["average_updates"])
        if saved["scaler"] is not None and trainer.accelerator.scaler is not None:
            trainer.accelerator.scaler.load_state_dict(saved["scaler"])
        trainer.engine.uneven = saved["uneven"]
        if saved["audit"] is not None:
            trainer.audit = self._restored_audit(saved["audit"])
        self._generators = folder / _own("generators", rank)
        if (self.output / PARTS).is_file():
            self._stages = read_json(self.output / PARTS)["stages"]

    def _load_average(self, folder: Path, updates: int) -> None:
        """Restore the averages, and put the weights themselves where the averages were loaded."""
        trainer = self.trainer
        tensors, _ = read_tensors(folder / TRAINING)
        groups: dict[str, dict[str, Tensor]] = {"weight": {}, "average": {}}
        for key, value in tensors.items():
            kind, name = key.split("/", 1)
            groups[kind][name] = value
        own = part_tensors(trainer.model, trainer.saved_parts)
        with torch.no_grad():
            for name, value in groups["weight"].items():
                own[name].copy_(value)
        if trainer.average is not None:
            trainer.average.load(groups["average"], updates, trainer.model)

    def _restored_audit(self, values: Mapping[str, Any]) -> Audit:
        trainer = self.trainer
        audit = Audit(trainer.model, (), (), trainer.settings.audit_steps)
        audit.restore(values)
        return audit


def _own(name: str, rank: int) -> str:
    return f"{name}-{rank}.safetensors"
