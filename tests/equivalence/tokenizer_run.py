"""One of several processes that take the first step of a tokenizer, each with its own pictures."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from chiasm.data.world.worlds import WorldDataset
from chiasm.models.tokenizer import Tokenizer, TokenizerConfig
from tests.tiny_codebooks import ONE_LEVEL

PICTURES = 3
"""Samples a process."""


def build(start: str) -> Tokenizer:
    """Build the same weights in every process."""
    torch.manual_seed(0)
    values: dict[str, Any] = {"codebook": {"architecture": ONE_LEVEL}, "start": start}
    return TokenizerConfig.model_validate(values).build().train()


def first_step(model: Tokenizer, rank: int) -> None:
    """Let a model see the pictures of a process."""
    world = WorldDataset(world="occluded", count=4 * PICTURES)
    places = range(rank * PICTURES, (rank + 1) * PICTURES)
    model(model.collator([world[place] for place in places]))


def run(rank: int, count: int, port: int, output: str, start: str) -> None:
    """Be process `rank` of `count`; write the weights after the first step."""
    torch.set_num_threads(1)
    torch.distributed.init_process_group(
        "gloo", init_method=f"tcp://127.0.0.1:{port}", rank=rank, world_size=count
    )
    model = build(start)
    first_step(model, rank)
    weights = {name: tensor.contiguous() for name, tensor in model.state_dict().items()}
    save_file(weights, Path(output) / f"{rank}.safetensors")
    torch.distributed.destroy_process_group()
