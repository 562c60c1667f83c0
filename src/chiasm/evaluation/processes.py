"""The processes of an evaluation that a launcher started: joined before anything else wakes up."""

from __future__ import annotations

import os

import torch
from accelerate import PartialState

from chiasm.core.errors import ConfigError


def join_processes() -> PartialState:
    """Return this process's place among those that `accelerate launch` or `torchrun` started.

    Without a launcher it is the only one, and main.

    Raises:
        ConfigError: The launcher started several processes that do not find each other.
    """
    launched = int(os.environ.get("WORLD_SIZE", "1"))
    if launched == 1:
        return PartialState()
    # On a machine without an accelerator, Accelerate joins processes only when told.
    alone = not torch.accelerator.is_available()
    state = PartialState(cpu=True) if alone else PartialState()
    if state.num_processes != launched:
        raise ConfigError(
            f"the launcher started {launched} processes, but they see {state.num_processes}; each "
            "would evaluate everything and write the same files. Start with accelerate launch or "
            "torchrun, and let nothing use Accelerate before"
        )
    return state
