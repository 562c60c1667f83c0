"""What the DeepSpeed engine refuses, without DeepSpeed; how it trains is in tests/equivalence."""

from typing import Any

import pytest
from accelerate.utils import DeepSpeedPlugin

from chiasm.core.errors import ConfigError
from chiasm.training.settings import StageSettings, TrainingSettings
from chiasm.training.zero import check_plugin

STAGE = StageSettings(name="a", steps=1, train=("*",), learning_rate=1.0)


def settings(**values: Any) -> TrainingSettings:
    return TrainingSettings(stages=(STAGE,), **values)


@pytest.mark.parametrize("stage", [1, 2])
def test_stages_that_leave_weights_whole(stage: int) -> None:
    plugin = DeepSpeedPlugin(zero_stage=stage)
    check_plugin(plugin, settings(precision="bf16"))
    assert plugin.zero_stage == stage


def test_all_that_is_not_possible_is_named() -> None:
    plugin = DeepSpeedPlugin(
        zero_stage=3, offload_optimizer_device="cpu", offload_param_device="nvme"
    )
    with pytest.raises(ConfigError) as caught:
        check_plugin(plugin, settings(precision="fp16", check_gradients=True))
    assert [fault.split(":")[0] for fault in caught.value.faults] == [
        "zero_stage 3",
        "offload_optimizer_device 'cpu'",
        "offload_param_device 'nvme'",
        "precision fp16",
        "check_gradients",
    ]
