import pytest

from chiasm.core.config import read_config
from chiasm.core.errors import ConfigError
from chiasm.training.settings import StageSettings, TrainingSettings

STAGE = {"name": "one", "steps": 3, "train": ["*"], "learning_rate": 0.1}


def fault(**values: object) -> str:
    with pytest.raises(ConfigError) as caught:
        read_config(TrainingSettings, {"stages": [STAGE], **values}, "recipe")
    return str(caught.value)


def stage_fault(**values: object) -> str:
    return fault(stages=[{**STAGE, **values}])


def test_reads_plain_values() -> None:
    settings = read_config(TrainingSettings, {"stages": [STAGE]}, "recipe")
    assert settings.stages[0].train == ("*",)
    assert settings.batch_size == 8 and settings.precision == "fp32" and settings.clip_norm == 1.0


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"epochs": 2}, "exactly one of steps and epochs"),
        ({"steps": None}, "exactly one of steps and epochs"),
        ({"steps": 0}, "greater than 0"),
        ({"warmup": 2.5}, "neither a whole number of steps nor a share"),
        ({"learning_rate": 0}, "greater than 0"),
        ({"learning_rates": {"head": 0}}, "leave the part out of train to freeze it"),
        ({"loss_weights": {"gate": -1}}, "give 0 or more"),
        ({"loss_weights": {"gate": float("nan")}}, "give 0 or more"),
        ({"train": []}, "at least 1"),
        ({"schedule": "cosin"}, "cosine"),
    ],
)
def test_wrong_stage(values: dict[str, object], words: str) -> None:
    assert words in stage_fault(**values)


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"patience": 3}, "patience needs metric"),
        ({"stages": [STAGE, STAGE]}, "stage name given twice: one"),
        ({"betas": (0.9, 1.0)}, "must lie in [0, 1)"),
        ({"ema": 1.0}, "less than 1"),
        ({"precision": "fp64"}, "fp32"),
        ({"batchsize": 3}, "did you mean 'batch_size'?"),
    ],
)
def test_wrong_settings(values: dict[str, object], words: str) -> None:
    assert words in fault(**values)


def test_all_faults_at_once() -> None:
    with pytest.raises(ConfigError) as caught:
        read_config(TrainingSettings, {"stages": [], "seed": -1, "keep": 0}, "recipe")
    assert len(caught.value.faults) == 3


@pytest.mark.parametrize(
    ("epochs", "samples", "processes", "expected"),
    # A step reads 3 * 2 samples a process.
    [(1, 12, 1, 2), (1, 13, 1, 3), (2, 13, 1, 5), (1, 13, 2, 2), (0.5, 13, 1, 2), (0.01, 13, 1, 1)],
)
def test_epochs_are_rounded_up(epochs: float, samples: int, processes: int, expected: int) -> None:
    stage = StageSettings(name="a", epochs=epochs, train=("*",), learning_rate=1.0)
    settings = TrainingSettings(stages=(stage,), batch_size=3, accumulation=2)
    assert settings.total_steps(stage, samples, processes) == expected
