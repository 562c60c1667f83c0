"""The one training loop."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from torch import Tensor, nn

from chiasm.core.batch import Batch
from chiasm.core.config import lookup
from chiasm.core.errors import ConfigError, NonFiniteLossError, TrainingError, UnknownNameError
from chiasm.core.protocols import Collate, Dataset, Evaluate, Model, Objective
from chiasm.training.audit import Audit
from chiasm.training.ema import WeightAverage
from chiasm.training.engine import PlainEngine, build_accelerator
from chiasm.training.freezing import (
    check_ownership,
    match_parts,
    named_parameters,
    part_rate,
    parts_lines,
    parts_table,
    render_parts,
    set_trainable,
)
from chiasm.training.optimiser import build_optimizer, set_learning_rates
from chiasm.training.progress import ProgressView
from chiasm.training.randomness import seed_generators, undisturbed_generators
from chiasm.training.recomputation import recompute_layers
from chiasm.training.records import Records
from chiasm.training.run_files import RunFiles
from chiasm.training.sampler import Order, Slices, micro_batches
from chiasm.training.schedule import rate_factor
from chiasm.training.settings import StageSettings, TrainingSettings
from chiasm.training.signals import CaughtSignals
from chiasm.training.state import TrainingReport, TrainingState

Mode = Collection[str] | Callable[[Model], Collection[str]]
"""What a mode's name stands for: part names and globs, or a function of the model giving them."""


class Trainer:
    """Trains a model in stages, watches that it does what was declared, and leaves a run directory.

    With several processes (torchrun, accelerate launch) each builds the same trainer; the first one
    evaluates and writes. A model whose forward pass uses other parameters on one process than on
    another (a batch without an image) should touch the unused ones; see
    `TrainingSettings.find_unused_parameters` and `check_gradients` for what happens otherwise.

    Args:
        model: An `nn.Module` that is a `core.protocols.Model`.
        objective: Gives sums and counts.
        dataset: The samples.
        collate: Turns samples into a batch.
        settings: What to do.
        output: The run directory.
        evaluate: Evaluates the model; called in evaluation mode without gradients, on the first
            process only. Random generators stand afterwards as before.
        resume: Go on from the newest checkpoint in `output`.
        describe: Text files of the run directory by name (`recipe.yaml`). A resumed run must have
            the same.
        modes: For `switch_mode`: parts by mode name.
        console: Where progress is shown; standard error if None.

    Raises:
        ConfigError: Settings and model do not fit, or a resumed run is asked for something else.
        CheckpointError: Nothing to resume from, or checkpoints are there and `resume` is not set.
    """

    def __init__(
        self,
        *,
        model: nn.Module,
        objective: Objective,
        dataset: Dataset,
        collate: Collate,
        settings: TrainingSettings,
        output: Path,
        evaluate: Evaluate | None = None,
        resume: bool = False,
        describe: Mapping[str, str] | None = None,
        modes: Mapping[str, Mode] | None = None,
        console: Console | None = None,
    ) -> None:
        check_ownership(model)
        if evaluate is not None and settings.metric is None:
            raise ConfigError(
                "an evaluation is given; name in `metric` which number picks the best"
            )
        self.module = model
        self.model: Model = model  # type: ignore[assignment]
        self.objective, self.dataset, self.collate = objective, dataset, collate
        self.settings, self.evaluate, self.modes = settings, evaluate, dict(modes or {})
        self._declared = self._match_stages()
        self.accelerator = build_accelerator(settings)
        self.processes = self.accelerator.num_processes
        self.is_main = self.accelerator.is_main_process
        model.to(self.accelerator.device)
        self.optimizer = build_optimizer(self.model, settings)
        self.engine = PlainEngine(model, self.optimizer, self.accelerator, settings)
        self.average = None if settings.ema is None else WeightAverage(settings.ema)
        self.slices = Slices(
            order=Order(len(dataset), settings.seed, settings.order == "shuffle"),
            batch_size=settings.batch_size,
            accumulation=settings.accumulation,
            processes=self.processes,
            rank=self.accelerator.process_index,
        )
        self.totals = [
            settings.total_steps(stage, len(dataset), self.processes) for stage in settings.stages
        ]
        self.state = TrainingState()
        self.audit: Audit | None = None
        self.metrics: Mapping[str, float] = {}
        self.loss: float | None = None
        self._entered = False
        self._batches: Iterator[Batch] | None = None
        self._records: Records | None = None
        self._terms: set[str] = set()
        self.files = RunFiles(self, output, describe or {})
        self.files.prepare(resume)
        self.progress = ProgressView(sum(self.totals), self.is_main, console)

    # ------------------------------------------------------------------ the loop

    def train(self, steps: int | None = None) -> TrainingReport:
        """Train to the end, or for at most `steps` more optimizer steps.

        Between two calls, `switch_mode` and `set_trainable` change what trains.

        Raises:
            NonFiniteLossError: The loss or the gradients are not finite.
            AuditError: What was declared to train and what happened disagree.
            TrainingError: The objective or the processes contradict themselves.
        """
        self._begin()
        end = None if steps is None else self.state.step + steps
        with self.progress, CaughtSignals() as signals:
            while not self.finished and self.state.step != end:
                started = time.monotonic()
                self._enter_stage()
                window = self._read()
                totals = self._count(window)
                sums = self._accumulate(window, totals)
                losses, stopping = self._exchange(window, sums, totals, bool(signals.name))
                norm = self._clip(losses)
                self._update()
                self._watch()
                self.state.seconds += time.monotonic() - started
                best = self._judge()
                self._record(losses, norm)
                self._advance()
                self.files.keep(best=best, stopping=stopping)
                if stopping:
                    self._say(f"stopped by a signal after step {self.state.step}; resume goes on")
                    return self._end(interrupted=True)
        return self._end(interrupted=False)

    @property
    def stage(self) -> StageSettings:
        """The current stage; the last one when the run is finished."""
        return self.settings.stages[min(self.state.stage, len(self.totals) - 1)]

    @property
    def finished(self) -> bool:
        """Whether all stages are done."""
        return self.state.stage >= len(self.totals)

    @property
    def trainable(self) -> frozenset[str]:
        """Names of the parts that train now."""
        if self.state.trainable is not None:
            return frozenset(self.state.trainable)
        return self._declared[self.stage.name]

    @property
    def saved_parts(self) -> frozenset[str]:
        """Parts that a checkpoint holds: new, declared by any stage, or trained after a switch."""
        declared = frozenset().union(*self._declared.values())
        return self.model.new_parts | declared | frozenset(self.state.ever_trained)

    def switch_mode(self, mode: str) -> None:
        """Train the parts of a named mode from the next step to the end of the stage.

        Raises:
            UnknownNameError: There is no such mode, or it names a part that is not there.
        """
        parts = lookup(self.modes, mode, "mode")
        self._switch(match_parts(parts(self.model) if callable(parts) else parts, self.model.parts))

    def set_trainable(self, parts: Mapping[str, bool] | Iterable[str]) -> None:
        """Change which parts train from the next step to the end of the stage.

        Args:
            parts: True or False by part (names and globs); parts that are not named stay as they
                are. Or the names of exactly the parts that train.

        Raises:
            UnknownNameError: A part is not there.
            ConfigError: Nothing would train.
        """
        names = self.model.parts
        if isinstance(parts, Mapping):
            chosen = set(self.trainable)
            for pattern, trains in parts.items():
                matched = match_parts([pattern], names)
                chosen = chosen | matched if trains else chosen - matched
        else:
            chosen = set(match_parts(parts, names))
        self._switch(frozenset(chosen))

    # ------------------------------------------------------------------ the steps

    def _begin(self) -> None:
        if self._records is not None:
            return
        self._records = Records(self.files.output, self.state.step, self.is_main)
        if not self.files.restore_generators():
            seed_generators(self.settings.seed, self.accelerator.process_index)
        resumed = f", resumed at step {self.state.step}" if self.state.step else ""
        self._say(
            f"{sum(self.totals)} steps in {len(self.totals)} stage(s) on {self.processes} "
            f"process(es), {self.accelerator.device.type}, {self.settings.precision}{resumed}"
        )

    def _enter_stage(self) -> None:
        """Freeze and thaw, wrap for several processes, show the table, start the audit."""
        if self._entered:
            return
        self._entered = True
        set_trainable(self.model, self.trainable)
        if self.settings.gradient_checkpointing:
            recompute_layers(self.module)
        self.engine.wrap(
            [(name, p) for _, name, p in named_parameters(self.model) if p.requires_grad]
        )
        self.state.ever_trained = sorted({*self.state.ever_trained, *self.trainable})
        if self.average is not None:
            self.average.join(self.model)
        rows = parts_table(self.model, self.trainable, self._peaks())
        if self.is_main:
            self.progress.say(render_parts(rows, f"PARAMETER FREEZE STATUS: {self.stage.name}"))
        for line in [f"stage {self.stage.name}", *parts_lines(rows)]:
            self._log(line)
        if self.audit is None:
            grouped = {id(p) for group in self.optimizer.param_groups for p in group["params"]}
            self.audit = Audit(
                self.model,
                self.trainable,
                grouped,
                self.settings.audit_steps,
                self.engine.sees_gradients,
            )
        self.files.write_parts(rows)

    def _read(self) -> list[Batch]:
        """Read the micro-batches of one optimizer step."""
        if self._batches is None:
            self._batches = micro_batches(
                self.dataset,
                self.collate,
                self.slices,
                step=self.state.step,
                workers=self.settings.workers,
                seed=self.settings.seed,
            )
        return [next(self._batches) for _ in range(self.settings.accumulation)]

    def _count(self, window: Sequence[Batch]) -> dict[str, float]:
        """Count items by term over all micro-batches and processes, before any backward pass."""
        counts: dict[str, float] = {}
        for batch in window:
            for term, count in self.objective.count(batch).items():
                counts[term] = counts.get(term, 0.0) + count
        totals = self.engine.total_counts(counts)
        self._terms |= set(totals)
        for term in self.stage.loss_weights:
            if term not in self._terms:
                raise UnknownNameError(
                    f"loss term in loss_weights of stage {self.stage.name!r}", term, self._terms
                )
        if not any(totals.values()):
            raise TrainingError(
                f"step {self.state.step + 1}: nothing to score in {_names(window)}; no term counts "
                "any item. Check that the data has supervised tokens or labels"
            )
        return totals

    def _accumulate(
        self, window: Sequence[Batch], totals: Mapping[str, float]
    ) -> list[dict[str, Tensor]]:
        """Forward, score and backward for each micro-batch; return its sums by term.

        Each sum is divided by the count of the whole step on all processes, so a token weighs the
        same wherever it lies. Processes average gradients, hence the factor.
        """
        weights = self.stage.loss_weights
        scales = {
            term: weights.get(term, 1.0) * self.processes / count if count else 0.0
            for term, count in totals.items()
        }
        local = self.processes > 1 and (self._audit.open or self.settings.check_gradients)
        found = []
        for turn, batch in enumerate(window):
            last = turn == len(window) - 1
            with self.engine.exchange(last, local):
                moved = batch.to(self.accelerator.device)
                sums = dict(self.objective.score(self.engine.forward(moved), moved))
                self._check_terms(sums, totals)
                scaled = [scales[term] * value for term, value in sums.items()]
                self.engine.backward(torch.stack(scaled).sum(), last, local)
            found.append({term: value.detach() for term, value in sums.items()})
        if local:
            self.engine.reconcile()
        return found

    def _exchange(
        self,
        window: Sequence[Batch],
        sums: Sequence[Mapping[str, Tensor]],
        totals: Mapping[str, float],
        stop: bool,
    ) -> tuple[dict[str, float], bool]:
        """Add up losses over processes; stop all of them together on a number that is none."""
        own = {term: float(sum(part[term] for part in sums if term in part)) for term in totals}
        tokens = sum(int(batch.attention_mask.sum()) for batch in window)
        samples = sum(len(batch) for batch in window)
        added = self.engine.total([float(stop), float(tokens), float(samples), *own.values()])
        losses = {
            term: value / count if count else 0.0
            for (term, count), value in zip(totals.items(), added[3:], strict=True)
        }
        if not all(torch.isfinite(torch.tensor(value)) for value in losses.values()):
            self._fail_on_loss(window, sums, losses)
        self.state.tokens += int(added[1])
        self.state.samples += int(added[2])
        weights = self.stage.loss_weights
        self.loss = sum(weights.get(term, 1.0) * value for term, value in losses.items())
        return losses, bool(added[0])

    def _clip(self, losses: Mapping[str, float]) -> float:
        """Note gradients for the audit, clip them, and refuse a norm that is no number."""
        if self._audit.open:
            self._audit.see_gradients(self.model)
        norm = self.engine.clip()
        if self.accelerator.scaler is None and not torch.isfinite(torch.tensor(norm)):
            raise NonFiniteLossError(
                f"step {self.state.step + 1}: the gradient norm is {norm} although the loss is "
                f"finite ({_numbers(losses)}); the weights are untouched. Lower the learning rate, "
                "or use fp32 or bf16"
            )
        return norm

    def _update(self) -> None:
        """Set learning rates, step the optimizer, move the average."""
        set_learning_rates(self.optimizer, self.rates())
        if not self.engine.step():
            self.state.skipped += 1
            self._log(f"step {self.state.step + 1}: gradients overflowed in fp16; step left out")
        elif self.average is not None:
            self.average.update(self.model)
        self.engine.zero_grad()
        self.state.step += 1
        self.state.stage_step += 1

    def _watch(self) -> None:
        """Hold the audit after the first steps of a stage."""
        if not self._audit.open:
            return
        waiting = self._audit.see_step(self.model)
        for line in waiting:
            self._say(f"audit: {line}; looking again after the next step")
        if not waiting:
            for line in ["audit passed", *self._audit.lines()]:
                self._log(line)
            self.files.write_parts(parts_table(self.model, self.trainable, self._peaks()))

    def _judge(self) -> bool:
        """Evaluate when it is time; return whether this is a new best."""
        every = self.settings.evaluate_every
        last = self._stage_is_over() and self.state.stage == len(self.totals) - 1
        self.metrics = {}
        if self.evaluate is None or not (last or (every and self.state.step % every == 0)):
            return False
        self.metrics = self.engine.from_main(self._measure(self.evaluate) if self.is_main else None)
        value = float(lookup(self.metrics, self.settings.metric or "", "metric of the evaluation"))
        sign = 1 if self.settings.mode == "max" else -1
        if self.state.best is not None and not sign * value > sign * self.state.best:
            self.state.stale += 1
            return False
        self.state.best, self.state.best_step, self.state.stale = value, self.state.step, 0
        return True

    def _measure(self, evaluate: Evaluate) -> dict[str, float]:
        modes = {module: module.training for module in self.module.modules()}
        self.module.eval()
        with undisturbed_generators(), torch.no_grad(), self.accelerator.autocast():
            if self.average is None:
                metrics = dict(evaluate())
            else:
                with self.average.applied(self.model):
                    metrics = dict(evaluate())
        for module, training in modes.items():
            module.training = training
        return metrics

    def _record(self, losses: Mapping[str, float], norm: float) -> None:
        """Show progress, and write a line of numbers when it is time."""
        step, every = self.state.step, self.settings.log_every
        self.progress.move(step, self.stage.name)
        if not (step == 1 or step % every == 0 or self._stage_is_over() or self.metrics):
            return
        values: dict[str, Any] = {
            "stage": self.stage.name,
            "loss": self.loss,
            "terms": dict(losses),
            "learning_rates": self.rates(self.state.stage_step - 1),
            "gradient_norm": norm,
            "samples": self.state.samples,
            "tokens": self.state.tokens,
            "seconds": round(self.state.seconds, 3),
        }
        if self.metrics:
            values["evaluation"] = dict(self.metrics)
        if self._records is not None:
            self._records.measure(step, values)
        speed = f"{self.state.samples / self.state.seconds:.1f} samples/s"
        speed += f" {self.state.tokens / self.state.seconds:.0f} tokens/s"
        numbers = f"loss {self.loss:.4f} {_numbers(self.metrics)}".rstrip()
        left = (sum(self.totals) - step) * self.state.seconds / step
        line = f"step {step}/{sum(self.totals)} {self.stage.name} {numbers} {speed}"
        self.progress.note(f"{numbers} {speed}", f"{line}, {left:.0f} s left")
        self._log(line)

    def _advance(self) -> None:
        """Go on to the next stage when this one is over; check that its frozen parts rested."""
        if not self._stage_is_over():
            return
        self._audit.see_end(self.model)
        if self._audit.open:
            self._say(f"stage {self.stage.name} ended before its audit was complete")
        if self.state.stage_step < self.totals[self.state.stage]:
            self._say(
                f"stage {self.stage.name} ended early: {self.state.stale} evaluations without a "
                f"better {self.settings.metric}"
            )
        self.state.stage += 1
        self.state.stage_step, self.state.stale, self.state.trainable = 0, 0, None
        self.audit, self._entered = None, False

    # ------------------------------------------------------------------ small things

    def rates(self, step: int | None = None) -> dict[str, float]:
        """Return the learning rate of each part that trains, at a step of the stage."""
        done = self.state.stage_step if step is None else step
        factor = rate_factor(self.stage, done, self.totals[self.state.stage])
        return {part: peak * factor for part, peak in self._peaks().items()}

    def _peaks(self) -> dict[str, float]:
        stage = self.stage
        return {
            part: part_rate(part, stage.learning_rate, stage.learning_rates)
            for part in sorted(self.trainable)
        }

    @property
    def _audit(self) -> Audit:
        if self.audit is None:
            raise TrainingError("no stage has been entered")
        return self.audit

    def _stage_is_over(self) -> bool:
        patience = self.settings.patience
        stale = patience is not None and self.state.stale >= patience
        return stale or self.state.stage_step >= self.totals[self.state.stage]

    def _switch(self, parts: frozenset[str]) -> None:
        if not parts:
            raise ConfigError(f"nothing would train; the parts are {', '.join(self.model.parts)}")
        self.state.trainable = sorted(parts)
        self.audit, self._entered = None, False

    def _match_stages(self) -> dict[str, frozenset[str]]:
        faults: list[str] = []
        declared: dict[str, frozenset[str]] = {}
        for stage in self.settings.stages:
            try:
                declared[stage.name] = match_parts(stage.train, self.model.parts)
                match_parts(stage.learning_rates, self.model.parts)
            except UnknownNameError as error:
                faults.append(f"stage {stage.name!r}: {error}")
        if faults:
            raise ConfigError("stages name parts that the model does not have", faults)
        return declared

    def _check_terms(self, sums: Mapping[str, Tensor], totals: Mapping[str, float]) -> None:
        uncounted = sorted(set(sums) - set(totals))
        if uncounted or not sums:
            raise TrainingError(
                f"the objective scores {uncounted or 'nothing'} without counting it; its counts "
                f"are {sorted(totals)}. score and count must name the same terms"
            )

    def _fail_on_loss(
        self,
        window: Sequence[Batch],
        sums: Sequence[Mapping[str, Tensor]],
        losses: Mapping[str, float],
    ) -> None:
        own = [
            _names([batch])
            for batch, part in zip(window, sums, strict=True)
            if not all(bool(torch.isfinite(value)) for value in part.values())
        ]
        where = [name for names in self.engine.gather(own) for name in names]
        raise NonFiniteLossError(
            f"step {self.state.step + 1}, stage {self.stage.name!r}: the loss is not finite: "
            f"{_numbers(losses)}. It comes from {'; '.join(where)}. The weights are those of the "
            "step before; look at these samples, or lower the learning rate"
        )

    def _end(self, interrupted: bool) -> TrainingReport:
        state = self.state
        if self._records is not None:
            self._records.sync()
            if self.finished or interrupted:
                self._records.close()
                self._records = None
        if self.finished or interrupted:
            self._batches = None
        return TrainingReport(
            step=state.step,
            finished=self.finished,
            interrupted=interrupted,
            loss=self.loss,
            metrics=dict(self.metrics),
            best=state.best,
            best_step=state.best_step,
            seconds=state.seconds,
            skipped=state.skipped,
        )

    def _say(self, line: str) -> None:
        self.progress.say(line)
        self._log(line)

    def _log(self, line: str) -> None:
        if self._records is not None:
            self._records.say(line)


def _names(window: Sequence[Batch]) -> str:
    names = [sample.identifier for batch in window for sample in batch.samples]
    return f"samples {', '.join(names)}" if names else "samples without identifiers"


def _numbers(values: Mapping[str, float]) -> str:
    return ", ".join(f"{name} {value:.4g}" for name, value in values.items())
