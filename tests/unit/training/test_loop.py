from __future__ import annotations

import io
import json
import os
import random
import signal
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from rich.console import Console
from safetensors.torch import load_file
from torch import Tensor

from chiasm.core.batch import Batch
from chiasm.core.errors import (
    AuditError,
    CheckpointError,
    ConfigError,
    NonFiniteLossError,
    TrainingError,
    UnknownNameError,
)
from chiasm.core.outputs import Outputs
from chiasm.core.samples import Sample
from chiasm.training.loop import Trainer
from chiasm.training.records import read_metrics
from chiasm.training.settings import StageSettings, TrainingSettings
from chiasm.training.weights import load_model
from tests.unit.training.small import SmallData, SmallModel, SmallObjective, collate


def stage(name: str = "all", steps: int = 3, train: Sequence[str] = ("*",), **values: Any) -> Any:
    values = {"learning_rate": 1e-2, **values}
    return StageSettings(name=name, steps=steps, train=tuple(train), **values)


def trainer(output: Path, *stages: StageSettings, **values: Any) -> Trainer:
    """A trainer over small parts; whatever is not a setting is handed to the trainer."""
    named = ("model", "objective", "dataset", "collate", "evaluate", "resume", "describe", "modes")
    given: dict[str, Any] = {key: values.pop(key) for key in named if key in values}
    given.setdefault("model", SmallModel())
    given.setdefault("objective", SmallObjective())
    given.setdefault("dataset", SmallData(29))
    given.setdefault("collate", collate)
    console = values.pop("console", Console(file=io.StringIO()))
    settings = TrainingSettings(
        stages=stages or (stage(),), **{"batch_size": 3, "log_every": 1, **values}
    )
    return Trainer(settings=settings, output=output, console=console, **given)


def weights(model: SmallModel) -> dict[str, Tensor]:
    return {name: value.detach().clone() for name, value in model.state_dict().items()}


def changed(model: SmallModel, before: Mapping[str, Tensor]) -> set[str]:
    now = model.state_dict()
    return {name.split(".")[0] for name in before if not torch.equal(before[name], now[name])}


# ---------------------------------------------------------------- what trains


def test_it_learns(tmp_path: Path) -> None:
    run = trainer(tmp_path, stage(steps=60, learning_rate=3e-2), model=SmallModel(dropout=0.0))
    run.train()
    losses = [row["terms"]["tokens"] for row in read_metrics(tmp_path / "metrics.jsonl")]
    # Thirteen tokens by chance: ln 13 = 2.565. A token hints at the next, it does not fix it.
    assert sum(losses[:5]) / 5 > 2.5
    assert sum(losses[-5:]) / 5 < 2.2


def test_each_stage_moves_its_own_parts(tmp_path: Path) -> None:
    run = trainer(
        tmp_path,
        stage("fusion", 3, ["fusion"]),
        stage("eyes", 2, ["encoder.*", "host"], learning_rates={"host": 1e-4}),
    )
    model: SmallModel = run.module  # type: ignore[assignment]
    before = weights(model)
    run.train(3)
    assert changed(model, before) == {"gate", "output"}
    before = weights(model)
    report = run.train()
    assert changed(model, before) == {"left", "right", "embedding"}
    assert report.finished and not report.interrupted and report.step == 5
    rows = read_metrics(tmp_path / "metrics.jsonl")
    assert set(rows[0]["learning_rates"]) == {"fusion.gate", "fusion.output"}
    last = rows[-1]["learning_rates"]
    assert last["host"] == pytest.approx(last["encoder.left"] / 100)


def test_the_schedule_starts_anew_in_each_stage(tmp_path: Path) -> None:
    trainer(
        tmp_path,
        stage("one", 3, schedule="linear"),
        stage("two", 4, schedule="constant", warmup=2, learning_rate=1e-3),
    ).train()
    rates = [row["learning_rates"]["head"] for row in read_metrics(tmp_path / "metrics.jsonl")]
    assert rates == pytest.approx([1e-2, 2e-2 / 3, 1e-2 / 3, 5e-4, 1e-3, 1e-3, 1e-3])


def test_loss_weights_change_the_loss_by_stage(tmp_path: Path) -> None:
    trainer(
        tmp_path, stage("one", 1), stage("two", 1, loss_weights={"gate": 7, "tokens": 0})
    ).train()
    one, two = read_metrics(tmp_path / "metrics.jsonl")
    assert one["loss"] == pytest.approx(one["terms"]["tokens"] + one["terms"]["gate"])
    assert two["loss"] == pytest.approx(7 * two["terms"]["gate"])
    assert two["terms"]["tokens"] > 0


def test_epochs(tmp_path: Path) -> None:
    run = trainer(
        tmp_path, StageSettings(name="a", epochs=2, train=("*",), learning_rate=1e-2), batch_size=5
    )
    assert run.train().step == 12  # 58 samples in batches of five
    assert read_metrics(tmp_path / "metrics.jsonl")[-1]["samples"] == 60


def test_workers_change_nothing(tmp_path: Path) -> None:
    rows = []
    for workers in (0, 2):
        trainer(tmp_path / str(workers), workers=workers).train()
        rows.append(
            [
                (row["loss"], row["tokens"])
                for row in read_metrics(tmp_path / str(workers) / "metrics.jsonl")
            ]
        )
    assert rows[0] == rows[1]


def test_switching_on_a_live_run(tmp_path: Path) -> None:
    run = trainer(
        tmp_path,
        stage("one", 6, ["fusion"]),
        stage("two", 1, ["fusion"]),
        modes={"head_only": ["head"], "eyes": lambda model: [n for n in model.parts if "enc" in n]},
    )
    model: SmallModel = run.module  # type: ignore[assignment]
    run.train(2)
    moments = {k: v.clone() for k, v in run.optimizer.state[model.gate.weight].items()}
    before = weights(model)
    run.switch_mode("head_only")
    run.train(1)
    assert changed(model, before) == {"head"}
    now = run.optimizer.state[model.gate.weight]
    assert all(torch.equal(moments[key], now[key]) for key in moments)
    before = weights(model)
    run.switch_mode("eyes")
    run.set_trainable({"encoder.left": False, "fusion.gate": True})
    run.train(1)
    assert changed(model, before) == {"right", "gate"}
    run.train()
    assert run.trainable == {"fusion.gate", "fusion.output"}
    saved = {n.split("/")[0] for n in load_file(tmp_path / "model.safetensors")}
    assert saved == {"fusion.gate", "fusion.output", "head", "encoder.right"}


def test_a_switch_survives_resuming(tmp_path: Path) -> None:
    run = trainer(tmp_path, stage("one", 6, ["fusion"]), checkpoint_every=3)
    run.train(2)
    run.set_trainable(["head"])
    run.train(1)
    again = trainer(tmp_path, stage("one", 6, ["fusion"]), checkpoint_every=3, resume=True)
    assert again.trainable == {"head"}
    before = weights(again.module)  # type: ignore[arg-type]
    again.train(1)
    assert changed(again.module, before) == {"head"}  # type: ignore[arg-type]


def test_switching_to_what_is_not_there(tmp_path: Path) -> None:
    run = trainer(tmp_path, modes={"head_only": ["head"]})
    with pytest.raises(UnknownNameError, match="unknown mode 'had_only'; known: head_only"):
        run.switch_mode("had_only")
    with pytest.raises(UnknownNameError, match="unknown part 'tail'"):
        run.set_trainable(["tail"])
    with pytest.raises(ConfigError, match="nothing would train"):
        run.set_trainable({"*": False})


# ---------------------------------------------------------------- evaluation


def test_evaluation_changes_nothing(tmp_path: Path) -> None:
    seen: list[tuple[bool, bool]] = []
    models = []

    def build(name: str, every: int | None) -> list[float]:
        model = SmallModel(jitter=True)
        models.append(model)

        def evaluate() -> dict[str, float]:
            torch.rand(3), random.random(), np.random.rand()
            seen.append((model.training or model.left.training, torch.is_grad_enabled()))
            return {"score": 1.0}

        run = trainer(
            tmp_path / name,
            stage("fusion", 3, ["fusion"]),
            stage("all", 3),
            model=model,
            evaluate=evaluate,
            metric="score",
            evaluate_every=every,
            ema=0.5,
        )
        run.train()
        return [row["loss"] for row in read_metrics(tmp_path / name / "metrics.jsonl")]

    assert build("often", 1) == build("rarely", None)
    assert seen == [(False, False)] * 7
    for one, two in zip(models[0].parameters(), models[1].parameters(), strict=True):
        assert torch.equal(one, two)


def test_frozen_parts_stay_in_evaluation_mode(tmp_path: Path) -> None:
    run = trainer(
        tmp_path,
        stage(train=["head"]),
        evaluate=lambda: {"score": 1.0},
        metric="score",
        evaluate_every=1,
    )
    run.train(1)
    model: SmallModel = run.module  # type: ignore[assignment]
    assert model.head.training and not model.left.training


def scores(values: Sequence[float]) -> Callable[[], dict[str, float]]:
    left = iter(values)
    return lambda: {"score": next(left)}


def test_the_best_is_kept_and_published(tmp_path: Path) -> None:
    model = SmallModel()
    kept: list[dict[str, Tensor]] = []
    values = iter([0.2, 0.9, 0.9, float("nan"), 0.3])

    def evaluate() -> dict[str, float]:
        kept.append(weights(model))
        return {"score": next(values)}

    report = trainer(
        tmp_path,
        stage(steps=5),
        model=model,
        evaluate=evaluate,
        metric="score",
        evaluate_every=1,
        keep=1,
    ).train()
    # An equal value is no better, and what is no number never is.
    assert report.best == 0.9 and report.best_step == 2
    names = {path.name for path in (tmp_path / "checkpoints").iterdir()}
    assert names == {"step-2", "step-5", "best", "last"}
    assert (tmp_path / "checkpoints" / "best").resolve().name == "step-2"
    for folder in (tmp_path, tmp_path / "checkpoints" / "best"):
        fresh = SmallModel(seed=9)
        load_model(folder, fresh)
        assert all(torch.equal(kept[1][name], value) for name, value in fresh.state_dict().items())


def test_lower_can_be_better(tmp_path: Path) -> None:
    report = trainer(
        tmp_path,
        stage(steps=4),
        evaluate=scores([0.5, 0.2, 0.3, 0.4]),
        metric="score",
        mode="min",
        evaluate_every=1,
    ).train()
    assert report.best == 0.2 and report.best_step == 2


def test_patience_ends_the_stage_and_not_the_run(tmp_path: Path) -> None:
    report = trainer(
        tmp_path,
        stage("one", 50, ["fusion"]),
        stage("two", 50, ["head"]),
        evaluate=scores([0.1, 0.2, 0.2, 0.1, 0.3, 0.2, 0.2, 0.9]),
        metric="score",
        evaluate_every=2,
        patience=2,
    ).train()
    rows = read_metrics(tmp_path / "metrics.jsonl")
    assert [row["step"] for row in rows if row["stage"] == "one"] == list(range(1, 9))
    assert report.step == 14 and report.finished and report.best == 0.3
    log = (tmp_path / "log.txt").read_text()
    assert "stage one ended early: 2 evaluations without a better score" in log


class Noting(SmallData):
    """Notes which samples are read."""

    def __init__(self) -> None:
        super().__init__(29)
        self.read: list[int] = []

    def __getitem__(self, index: int) -> Sample:
        self.read.append(index)
        return super().__getitem__(index)


def test_after_an_early_end_the_next_stage_reads_its_own_samples(tmp_path: Path) -> None:
    data = Noting()
    trainer(
        tmp_path,
        stage("one", 5, ["fusion"]),
        stage("two", 1, ["head"]),
        dataset=data,
        order="sequential",
        evaluate=scores([0.2, 0.1, 0.3]),
        metric="score",
        evaluate_every=1,
        patience=1,
    ).train()
    assert data.read == [0, 1, 2, 3, 4, 5, 15, 16, 17]


def test_with_an_average_evaluation_and_model_are_the_average(tmp_path: Path) -> None:
    model = SmallModel()
    seen: list[dict[str, Tensor]] = []

    def evaluate() -> dict[str, float]:
        seen.append(weights(model))
        return {"score": 1.0}

    run = trainer(tmp_path, model=model, evaluate=evaluate, metric="score", ema=0.9)
    run.train()
    fresh = SmallModel(seed=9)
    load_model(tmp_path, fresh)
    assert all(torch.equal(seen[0][name], value) for name, value in fresh.state_dict().items())
    assert not torch.equal(fresh.head[1].weight, model.head[1].weight)


def test_a_metric_that_is_not_there(tmp_path: Path) -> None:
    run = trainer(tmp_path, evaluate=lambda: {"accuracy": 1.0}, metric="acuracy")
    with pytest.raises(UnknownNameError, match=r"known: accuracy\. Did you mean 'accuracy'"):
        run.train()
    with pytest.raises(ConfigError, match="name in `metric` what picks the best"):
        trainer(tmp_path / "other", evaluate=lambda: {"accuracy": 1.0})


# ---------------------------------------------------------------- what stops a run


class Poisoned(SmallObjective):
    """Gives a number that is none for one sample."""

    def __init__(self, name: str) -> None:
        self.name = name

    def score(self, outputs: Outputs, batch: Batch) -> dict[str, Tensor]:
        sums = super().score(outputs, batch)
        bad = any(sample.identifier == self.name for sample in batch.samples)
        return {**sums, "gate": sums["gate"] * float("nan")} if bad else sums


def test_a_loss_that_is_no_number(tmp_path: Path) -> None:
    model = SmallModel()
    run = trainer(
        tmp_path, stage(steps=20), model=model, objective=Poisoned("sample-17"), accumulation=2
    )
    with pytest.raises(NonFiniteLossError) as caught:
        run.train()
    message = str(caught.value)
    step = run.state.step + 1
    assert message.startswith(f"step {step}, stage 'all': the loss is not finite: gate nan, tokens")
    assert "sample-17" in message
    # Only the micro-batch at fault is named.
    assert message.count("sample-") == 3
    assert all(torch.isfinite(parameter).all() for parameter in model.parameters())
    assert message in (tmp_path / "log.txt").read_text()


class Steep(SmallModel):
    """A finite loss with an infinite gradient."""

    def forward(self, batch: Batch) -> Outputs:
        outputs = super().forward(batch)
        zero = (self.gate.bias * 0).abs().sqrt().sum()
        return Outputs(outputs.logits, outputs.targets, {"gate": outputs.named["gate"] + zero})


def test_a_gradient_that_is_no_number(tmp_path: Path) -> None:
    model = Steep()
    before = weights(model)
    with pytest.raises(NonFiniteLossError, match="the gradient norm is nan although the loss is"):
        trainer(tmp_path, model=model).train()
    assert not changed(model, before)


def test_a_term_that_nobody_scores(tmp_path: Path) -> None:
    run = trainer(tmp_path, stage(loss_weights={"gates": 2}))
    with pytest.raises(UnknownNameError, match=r"known: gate, tokens\. Did you mean 'gate'"):
        run.train()


class Uncounted(SmallObjective):
    def count(self, batch: Batch) -> dict[str, float]:
        return {"tokens": super().count(batch)["tokens"]}


def test_a_term_that_nobody_counts(tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match=r"scores \['gate'\] without counting it"):
        trainer(tmp_path, objective=Uncounted()).train()


class Nothing(SmallObjective):
    def count(self, batch: Batch) -> dict[str, float]:
        return {"tokens": 0.0, "gate": 0.0}


def test_nothing_to_score(tmp_path: Path) -> None:
    with pytest.raises(
        TrainingError, match=r"step 1, .*: nothing to score in samples sample-\d+, "
    ):
        trainer(tmp_path, objective=Nothing()).train()


class Blind(SmallModel):
    def forward(self, batch: Batch) -> Outputs:
        with torch.no_grad():
            outputs = super().forward(batch)
        logits = outputs.logits + self.head[1].bias if outputs.logits is not None else None
        return Outputs(logits, outputs.targets, outputs.named)


def test_a_part_that_cannot_learn_stops_the_run(tmp_path: Path) -> None:
    run = trainer(tmp_path, stage(steps=9), model=Blind())
    with pytest.raises(AuditError, match=r"fusion\.gate: no gradient reaches it"):
        run.train()
    assert run.state.step == 3


def test_a_zero_start_is_no_fault_and_is_said(tmp_path: Path) -> None:
    class TokensOnly(SmallObjective):
        def count(self, batch: Batch) -> dict[str, float]:
            return {"tokens": super().count(batch)["tokens"]}

        def score(self, outputs: Outputs, batch: Batch) -> dict[str, Tensor]:
            return {"tokens": super().score(outputs, batch)["tokens"]}

    trainer(tmp_path, model=SmallModel(zero_start=True), objective=TokensOnly()).train()
    log = (tmp_path / "log.txt").read_text()
    assert "audit: encoder.left: its gradient is exactly zero" in log and "audit passed" in log
    audit = json.loads((tmp_path / "parts.json").read_text())["stages"]["all"]
    assert audit["audit_passed"] is True
    assert audit["audit"]["encoder.left"]["moved"] == 2


def test_stages_with_unknown_parts_are_all_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        trainer(tmp_path, stage("one", train=["tail"]), stage("two", learning_rates={"had": 1.0}))
    assert len(caught.value.faults) == 2
    assert "stage 'two': unknown part 'had'" in str(caught.value)
    assert "Did you mean 'head'" in str(caught.value)


# ---------------------------------------------------------------- files, resuming, signals


def test_the_run_directory(tmp_path: Path) -> None:
    recipe = "name: small\ntraining:\n  seed: 0\n"
    trainer(tmp_path, stage(train=["fusion", "head"]), describe={"recipe.yaml": recipe}).train()
    names = {path.name for path in tmp_path.iterdir()}
    events = {name for name in names if name.startswith("events.out.tfevents")}
    assert len(events) == 1
    assert names - events == {
        "checkpoints",
        "host.json",
        "log.txt",
        "metrics.jsonl",
        "model.safetensors",
        "parts.json",
        "receipt.safetensors",
        "recipe.yaml",
    }
    assert (tmp_path / "recipe.yaml").read_text() == recipe
    parts = json.loads((tmp_path / "parts.json").read_text())
    assert parts["saved"] == ["fusion.gate", "fusion.output", "head"]
    rows = {row["name"]: row for row in parts["stages"]["all"]["parts"]}
    assert rows["host"]["trainable"] == 0 and rows["head"]["trainable"] == 118
    suffixes = {path.suffix for path in tmp_path.rglob("*") if path.is_file()}
    assert suffixes - {path.suffix for path in tmp_path.glob("events*")} == {
        ".json",
        ".jsonl",
        ".safetensors",
        ".txt",
        ".yaml",
    }


def test_an_earlier_run_is_not_overwritten(tmp_path: Path) -> None:
    trainer(tmp_path).train()
    with pytest.raises(CheckpointError, match="holds checkpoints of an earlier run; resume it, or"):
        trainer(tmp_path)
    with pytest.raises(CheckpointError, match="holds no checkpoint to resume from"):
        trainer(tmp_path / "other", resume=True)


def test_a_changed_recipe_is_refused(tmp_path: Path) -> None:
    recipe = {"recipe.yaml": "data:\n  path: a.json\ntraining:\n  workers: 0\n"}
    trainer(tmp_path, describe=recipe, checkpoint_every=1).train()
    other = {"recipe.yaml": "data:\n  path: b.json\ntraining:\n  workers: 2\n"}
    with pytest.raises(ConfigError) as caught:
        trainer(
            tmp_path, stage(steps=5), describe=other, dataset=SmallData(31), resume=True, workers=1
        )
    assert caught.value.faults == (
        "files.recipe.yaml.data.path: started with 'a.json', now 'b.json'",
        "samples: started with 29, now 31",
        "settings.stages.0.steps: started with 3, now 5",
    )


class Signalling(SmallData):
    """Sends this process a signal while a sample is read."""

    def __init__(self, number: int, at: int) -> None:
        super().__init__(29)
        self.number, self.at, self.read = number, at, 0

    def __getitem__(self, index: int) -> Sample:
        self.read += 1
        if self.read == self.at:
            os.kill(os.getpid(), self.number)
        return super().__getitem__(index)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_saves_and_leaves(tmp_path: Path, number: int) -> None:
    handler = signal.getsignal(number)
    stages = (stage("one", 4, ["fusion"]), stage("two", 4))
    straight = trainer(tmp_path / "straight", *stages)
    straight.train()
    cut = trainer(tmp_path / "cut", *stages, dataset=Signalling(number, at=3 * 4 + 2))
    report = cut.train()
    assert report.interrupted and not report.finished and report.step == 5
    assert signal.getsignal(number) == handler
    assert "a signal ended the run after step 5" in (tmp_path / "cut" / "log.txt").read_text()
    resumed = trainer(tmp_path / "cut", *stages, resume=True)
    assert resumed.train().finished
    for one, two in zip(resumed.module.parameters(), straight.module.parameters(), strict=True):
        assert torch.equal(one, two)


def test_a_second_interrupt_is_obeyed_at_once(tmp_path: Path) -> None:
    class Twice(SmallData):
        def __getitem__(self, index: int) -> Sample:
            # Two signals at once may arrive as one: let the first be handled before the second.
            for _ in range(2):
                os.kill(os.getpid(), signal.SIGINT)
                time.sleep(0.1)
            return super().__getitem__(index)

    # A test process that runs beside others may have been started with interrupts ignored.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with pytest.raises(KeyboardInterrupt):
            trainer(tmp_path, dataset=Twice(29)).train()
    finally:
        signal.signal(signal.SIGINT, before)


def test_a_terminal_gets_a_bar_and_a_file_gets_lines(tmp_path: Path) -> None:
    plain, terminal = io.StringIO(), io.StringIO()
    trainer(tmp_path / "plain", console=Console(file=plain, width=200)).train()
    trainer(
        tmp_path / "bar", console=Console(file=terminal, width=200, force_terminal=True)
    ).train()
    text = plain.getvalue()
    assert "step 3/3 all loss " in text and "samples/s" in text and "tokens/s" in text
    assert "s left" in text and "PARAMETER FREEZE STATUS: all" in text and "\x1b" not in text
    shown = terminal.getvalue()
    assert "3/3" in shown and "tokens/s" in shown and "step 3/3" not in shown


# ---------------------------------------------------------------- precision


def test_bf16_and_then_fp32_in_one_process(tmp_path: Path) -> None:
    losses = {}
    for precision in ("bf16", "fp32", "bf16"):
        model = SmallModel(dropout=0.0)
        output = tmp_path / f"{precision}-{len(losses)}"
        trainer(output, model=model, precision=precision).train()
        assert {p.dtype for p in model.parameters()} == {torch.float32}
        losses[output.name] = read_metrics(output / "metrics.jsonl")[0]["loss"]
    assert losses["bf16-0"] == losses["bf16-2"] != losses["fp32-1"]
    assert losses["bf16-0"] == pytest.approx(losses["fp32-1"], rel=1e-2)


@pytest.mark.skipif(torch.cuda.is_available(), reason="fp16 is possible here")
def test_fp16_needs_a_gpu(tmp_path: Path) -> None:
    with pytest.raises(
        ConfigError, match="precision 'fp16' is not possible on a CPU; use fp32 or bf16"
    ):
        trainer(tmp_path, precision="fp16")


@pytest.mark.gpu
@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
def test_on_a_gpu_a_run_resumes(tmp_path: Path, precision: str) -> None:
    values: dict[str, Any] = {"precision": precision, "checkpoint_every": 4, "ema": 0.9}
    straight = trainer(tmp_path / "straight", stage(steps=9), **values)
    straight.train()
    trainer(tmp_path / "cut", stage(steps=9), **values).train(6)
    resumed = trainer(tmp_path / "cut", stage(steps=9), resume=True, **values)
    resumed.train()
    for one, two in zip(resumed.module.parameters(), straight.module.parameters(), strict=True):
        assert one.device.type == "cuda" and torch.allclose(one, two, atol=1e-5)
