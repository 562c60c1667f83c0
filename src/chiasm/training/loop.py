"""The one training loop."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Collection, Iterable, Mapping
from pathlib import Path

from rich.console import Console
from torch import nn

from chiasm.core.config import lookup
from chiasm.core.errors import (
    ChiasmError,
    ConfigError,
    NonFiniteLossError,
    TrainingError,
)
from chiasm.core.protocols import Collate, Dataset, Evaluate, Model, Objective
from chiasm.training.audit import Audit
from chiasm.training.ema import WeightAverage
from chiasm.training.feed import Feed
from chiasm.training.freezing import (
    PartRow,
    change_parts,
    check_ownership,
    freeze_all_but,
    named_parameters,
    parts_table,
)
from chiasm.training.judging import measure, take_note
from chiasm.training.optimiser import set_learning_rates
from chiasm.training.plan import Plan
from chiasm.training.processes import Processes, build_accelerator
from chiasm.training.randomness import seed_generators
from chiasm.training.recomputation import recompute_layers
from chiasm.training.reporting import Reporter, write_numbers
from chiasm.training.run_files import RunFiles
from chiasm.training.scoring import Scorer
from chiasm.training.settings import StageSettings, TrainingSettings
from chiasm.training.signals import CaughtSignals
from chiasm.training.state import StepNumbers, TrainingReport, TrainingState
from chiasm.training.zero import FIXED, build_engine

Mode = Collection[str] | Callable[[Model], Collection[str]]
"""What a mode's name stands for: part names and globs, or a function of the model giving them."""


class Trainer:
    """Trains a model in stages, watches that it does what was declared, and leaves a run directory.

    With several processes (torchrun, accelerate launch) each builds the same trainer; the first one
    evaluates and writes. A model whose forward pass uses other parameters on one process than on
    another (a batch without an image) should touch the unused ones; see
    `TrainingSettings.uneven_gradients` and `check_gradients` for what happens otherwise.

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
            raise ConfigError("an evaluation is given: name in `metric` what picks the best")
        self.module = model
        self.model: Model = model  # type: ignore[assignment]
        self.dataset = dataset
        self.settings, self.evaluate, self.modes = settings, evaluate, dict(modes or {})
        self.accelerator = build_accelerator(settings)
        self.processes = Processes(self.accelerator)
        self.plan = Plan(settings, self.model.parts, len(dataset), self.processes.count)
        model.to(self.processes.device)
        self.optimizer, self.engine = build_engine(
            model, self.plan.declared, self.accelerator, self.processes, settings
        )
        self._grouped = {id(p) for group in self.optimizer.param_groups for p in group["params"]}
        self.scorer = Scorer(objective, self.engine, self.processes)
        self.average = None if settings.ema is None else WeightAverage(settings.ema)
        self.feed = Feed(
            dataset, collate, settings, processes=self.processes.count, rank=self.processes.rank
        )
        self.state = TrainingState()
        self.audit: Audit | None = None
        self.metrics: Mapping[str, float] = {}
        self.loss: float | None = None
        self._console = console
        self._begun, self._entered = False, False
        self._reporter: Reporter | None = None
        self.files = RunFiles(self, output, describe or {})
        self.files.prepare(resume)

    def train(self, steps: int | None = None) -> TrainingReport:
        """Train to the end, or for at most `steps` more optimizer steps.

        Between two calls, `switch_mode` and `set_trainable` change what trains.

        Raises:
            NonFiniteLossError: The loss or the gradients are not finite.
            AuditError: What was declared to train and what happened disagree.
            TrainingError: The objective or the processes contradict themselves.
        """
        reporter = self._begin()
        end = None if steps is None else self.state.step + steps
        interrupted = False
        try:
            with reporter.progress, CaughtSignals() as signals:
                while not (self.finished or interrupted or self.state.step == end):
                    interrupted = self._step(signals)
            if interrupted:
                reporter.say(f"a signal ended the run after step {self.state.step}; resume goes on")
        except ChiasmError as error:
            reporter.log([f"{type(error).__name__}: {error}"])
            raise
        finally:
            reporter.records.close()
            self._reporter = None
            if self.finished or interrupted:
                self.feed.stop()
        return self.state.report(
            finished=self.finished, interrupted=interrupted, loss=self.loss, metrics=self.metrics
        )

    def _step(self, signals: CaughtSignals) -> bool:
        """Do one optimizer step and all that belongs to it; return whether a signal asks to end."""
        started = time.monotonic()
        self._enter_stage()
        set_learning_rates(
            self.optimizer,
            self.plan.rates(self.state.stage, self.state.stage_step, self.trainable),
        )
        window = self.feed.read(self.plan.planned_step(self.state.stage, self.state.stage_step))
        weights = self.stage.loss_weights
        counts = self.scorer.count(window, weights, self._place)
        self.engine.watched = self._audit.open
        sums = self.scorer.accumulate(window, counts, weights)
        numbers = self.scorer.add_up(window, sums, counts, weights, bool(signals.name), self._place)
        norm = self._clip(numbers)
        self._update(numbers)
        self.state.seconds += time.monotonic() - started
        best = self._judge()
        self._record(numbers, norm)
        self._advance()
        self.files.keep(best=best, stopping=numbers.stopping)
        return numbers.stopping

    @property
    def stage(self) -> StageSettings:
        """The current stage; the last one when the run is finished."""
        return self.plan.stage(self.state.stage)

    @property
    def finished(self) -> bool:
        """Whether all stages are done."""
        return self.state.stage >= len(self.plan)

    @property
    def trainable(self) -> frozenset[str]:
        """Names of the parts that train now."""
        if self.state.trainable is not None:
            return frozenset(self.state.trainable)
        return self.plan.declared[min(self.state.stage, len(self.plan) - 1)]

    @property
    def saved_parts(self) -> frozenset[str]:
        """Parts that a checkpoint holds: new, declared by any stage, or trained after a switch."""
        switched = frozenset(self.state.ever_trained)
        return self.model.new_parts | self.plan.ever_declared | switched

    @property
    def reporter(self) -> Reporter:
        """Screen and records of this attempt.

        Raises:
            TrainingError: `train` has not been called.
        """
        if self._reporter is None:
            raise TrainingError("the run has not begun; call train")
        return self._reporter

    def switch_mode(self, mode: str) -> None:
        """Train the parts of a named mode from the next step to the end of the stage.

        Raises:
            UnknownNameError: There is no such mode, or it names a part that is not there.
        """
        parts = lookup(self.modes, mode, "mode")
        self.set_trainable(parts(self.model) if callable(parts) else parts)

    def set_trainable(self, parts: Mapping[str, bool] | Iterable[str]) -> None:
        """Change which parts train from the next step to the end of the stage.

        Args:
            parts: True or False by part (names and globs); parts that are not named stay as they
                are. Or the names of exactly the parts that train.

        Raises:
            UnknownNameError: A part is not there.
            ConfigError: Nothing would train, or the engine cannot change it in a run.
        """
        chosen = change_parts(self.trainable, parts, self.model.parts)
        if self.engine.fixed and chosen != self.trainable:
            raise ConfigError(f"what trains cannot change in a run with {FIXED}")
        self.state.trainable = sorted(chosen)
        self.audit, self._entered = None, False

    def _begin(self) -> Reporter:
        reporter = self._reporter = Reporter(
            self.files.output,
            self.plan.total,
            self.state.step,
            self.processes.is_main,
            self._console,
        )
        if not (self._begun or self.files.restore_generators()):
            seed_generators(self.settings.seed, self.processes.rank)
        self._begun = True
        since = f", going on from step {self.state.step}" if self.state.step else ""
        reporter.say(
            f"{self.plan.total} steps in {len(self.plan)} stage(s) on {self.processes.count} "
            f"process(es), {self.processes.device.type}, {self.settings.precision}{since}"
        )
        return reporter

    def _enter_stage(self) -> None:
        """Freeze and thaw, wrap for several processes, show the table, start the audit."""
        if self._entered:
            return
        self._entered = True
        freeze_all_but(self.model, self.trainable)
        if self.settings.gradient_checkpointing:
            recompute_layers(self.module)
        self.engine.wrap(
            [(name, p) for _, name, p in named_parameters(self.model) if p.requires_grad]
        )
        self.state.ever_trained = sorted({*self.state.ever_trained, *self.trainable})
        if self.average is not None:
            self.average.join(self.model)
        if self.audit is None:
            self.audit = Audit(
                self.model,
                self.trainable,
                self._grouped,
                self.settings.audit_steps,
                self.engine.sees_gradients,
            )
        rows = self._rows()
        self.reporter.show_parts(self.stage.name, rows)
        self.files.write_parts(rows)

    def _rows(self) -> list[PartRow]:
        peaks = self.plan.peaks(self.state.stage, self.trainable)
        return parts_table(self.model, self.trainable, peaks)

    def _clip(self, numbers: StepNumbers) -> float:
        """Note gradients for the audit, clip them, and refuse a norm that is not finite."""
        if self._audit.open:
            self._audit.see_gradients(self.model)
        norm = self.engine.clip()
        if self.accelerator.scaler is None and not math.isfinite(norm):
            raise NonFiniteLossError(
                f"{self._place}: the gradient norm is {norm} although the loss is finite "
                f"({write_numbers(numbers.terms)}); the weights are untouched. Lower the learning "
                "rate, or use fp32 or bf16"
            )
        return norm

    def _update(self, numbers: StepNumbers) -> None:
        """Step the optimizer, move the average, hold the audit."""
        state = self.state
        stepped = self.engine.step()
        self.engine.zero_grad()
        state.step += 1
        state.stage_step += 1
        state.tokens += numbers.tokens
        state.samples += numbers.samples
        if not stepped:
            state.skipped += 1
            self.reporter.log([f"step {state.step}: fp16 gradients overflowed; step left out"])
            return
        if self.average is not None:
            self.average.update(self.model)
        if self._audit.open:
            self._watch()

    def _watch(self) -> None:
        """Hold the audit after the first steps of a stage."""
        waiting = self._audit.see_step(self.model)
        for line in waiting:
            self.reporter.say(f"audit: {line}; looking again after the next step")
        if not waiting:
            self.reporter.log(["audit passed", *self._audit.lines()])
        self.files.write_parts(self._rows())

    def _judge(self) -> bool:
        """Evaluate when it is time; return whether this is a new best."""
        every = self.settings.evaluate_every
        last = self._stage_is_over() and self.state.stage == len(self.plan) - 1
        self.metrics = {}
        if self.evaluate is None or not (last or (every and self.state.step % every == 0)):
            return False
        found = None
        if self.processes.is_main:
            found = measure(self.evaluate, self.module, self.model, self.average, self.accelerator)
        self.metrics = self.processes.from_main(found)
        return take_note(self.state, self.metrics, self.settings)

    def _record(self, numbers: StepNumbers, norm: float) -> None:
        """Show progress, and write a line of numbers when it is time."""
        state = self.state
        self.loss = numbers.loss
        self.reporter.progress.move(state.step, self.stage.name)
        due = state.step == 1 or state.step % self.settings.log_every == 0
        if due or self._stage_is_over() or self.metrics:
            rates = self.plan.rates(state.stage, state.stage_step - 1, self.trainable)
            self.reporter.measure(state, self.stage.name, numbers, rates, norm, self.metrics)

    def _advance(self) -> None:
        """Go on to the next stage when this one is over; check that its frozen parts rested."""
        state = self.state
        if not self._stage_is_over():
            return
        self._audit.see_end(self.model)
        if self._audit.open:
            self.reporter.say(f"stage {self.stage.name} ended before its audit was complete")
        if state.stage_step < self.plan.totals[state.stage]:
            self.reporter.say(
                f"stage {self.stage.name} ended early: {state.stale} evaluations without a better "
                f"{self.settings.metric}"
            )
            # The next stage's samples begin where they would have begun.
            self.feed.stop()
        state.stage += 1
        state.stage_step, state.stale, state.trainable = 0, 0, None
        self.audit, self._entered = None, False

    @property
    def _audit(self) -> Audit:
        if self.audit is None:
            raise TrainingError("no stage has been entered; call train")
        return self.audit

    @property
    def _place(self) -> str:
        return f"step {self.state.step + 1}, stage {self.stage.name!r}"

    def _stage_is_over(self) -> bool:
        patience = self.settings.patience
        stale = patience is not None and self.state.stale >= patience
        return stale or self.state.stage_step >= self.plan.totals[self.state.stage]
