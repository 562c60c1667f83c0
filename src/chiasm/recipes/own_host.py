"""The host that a run brought forth: its description beside the run's weights."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor
from transformers import AutoConfig, AutoModelForImageTextToText

from chiasm.core.errors import CheckpointError
from chiasm.language.host import Host
from chiasm.language.loading import Attention, load_image_processor, load_tokenizer
from chiasm.recipes.places import HOST_FOLDER
from chiasm.training.durable import read_tensors
from chiasm.training.weights import WEIGHTS

PREFIX = "host_"
"""A run names the parts of its host so: `host_vision/...`."""


def is_own_host(folder: Path) -> bool:
    """Whether a folder describes a host whose weights lie in the run around it."""
    described = folder.name == HOST_FOLDER and (folder / "config.json").is_file()
    return described and not any(folder.glob("*.safetensors"))


def load_own_host(
    folder: Path, *, known_as: str, dtype: torch.dtype, attention: Attention = "sdpa"
) -> Host:
    """Load a host from its description and the weights of the run around it.

    Args:
        folder: The folder `host` of a run: configuration, tokenizer and image processor.
        known_as: What the host's identity calls it.
        dtype: Type of the weights in memory.
        attention: Attention implementation of transformers.

    Raises:
        CheckpointError: The run does not hold exactly the host's weights.
    """
    tensors, _ = read_tensors(folder.parent / WEIGHTS)
    config = AutoConfig.from_pretrained(str(folder))
    model = AutoModelForImageTextToText.from_config(
        config, dtype=dtype, attn_implementation=attention
    )
    host = Host(
        model=model,
        tokenizer=load_tokenizer(str(folder), revision=None),
        image_processor=load_image_processor(str(folder), revision=None),
        name=known_as,
    )
    _fill(host, tensors, folder.parent / WEIGHTS)
    return host.known_again(known_as)


@torch.no_grad()
def _fill(host: Host, tensors: dict[str, Tensor], path: Path) -> None:
    expected = {
        f"{PREFIX}{part}/{name}": tensor
        for part, module in host.parts.items()
        for name, tensor in module.state_dict(keep_vars=True).items()
    }
    saved = {name: tensor for name, tensor in tensors.items() if name.startswith(PREFIX)}
    # A tensor that two names share (tied embeddings) is saved under one of them.
    owners = {id(expected[name]) for name in saved if name in expected}
    missing = [name for name, tensor in expected.items() if id(tensor) not in owners]
    surplus = [name for name in saved if name not in expected]
    if missing or surplus:
        raise CheckpointError(
            f"{path} does not hold the host described beside it: missing {missing or 'none'}, "
            f"unexpected {surplus or 'none'}; copy the whole run directory again"
        )
    for name, tensor in saved.items():
        expected[name].copy_(tensor)
