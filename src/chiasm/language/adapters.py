"""Low-rank adapters on the language model, through PEFT and in PEFT's own file format.

LoRA (arXiv:2106.09685), equation 3: h = W x + (alpha / rank) B A x, with B zero at the start, so
that a fresh adapter changes nothing.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from peft import LoraConfig
from pydantic import Field

from chiasm.core.config import Config
from chiasm.core.errors import CheckpointError, InputError
from chiasm.language.host import Host
from chiasm.layers.lora import (
    keep_training,
    linear_layers,
    load_lora_weights,
    lora_modules,
    read_lora_settings,
    wrap_lora,
)

PROJECTIONS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
"""Every projection of a decoder layer, by the names that Llama and Qwen share."""


class LoraAdapterConfig(Config):
    """Low-rank adapters on the language model; towers and projectors are never touched.

    Attributes:
        rank: Rank of the update.
        alpha: The update is scaled by alpha / rank.
        dropout: Share of the adapter's input that is dropped in training.
        targets: Names of the linear layers inside the decoder that get an adapter.
    """

    rank: int = Field(default=8, ge=1)
    alpha: float = Field(default=16.0, gt=0)
    dropout: float = Field(default=0.0, ge=0, lt=1)
    targets: tuple[str, ...] = Field(default=PROJECTIONS, min_length=1)

    def build(self, host: Host) -> LoraAdapter:
        """Add the adapters to a host; see `add_lora`."""
        return add_lora(host, self)


class LoraAdapter:
    """The adapters on a host: what saves, merges and removes them.

    The host runs with them from the moment this exists; its parts gain one named `adapter`.

    Args:
        host: The host; its model already holds the adapters.
        peft: PEFT's wrapper around the host's model.
    """

    def __init__(self, host: Host, peft: Any) -> None:
        self._host = host
        self._peft = peft
        host.set_lora_modules(lora_modules(host.model))

    @property
    def parameters(self) -> int:
        """How many numbers the adapters hold."""
        return sum(value.numel() for value in self._host.parts["adapter"].parameters())

    def save(self, directory: Path | str) -> None:
        """Write `adapter_model.safetensors` and `adapter_config.json`."""
        self._peft.save_pretrained(
            str(directory), safe_serialization=True, save_embedding_layers=False
        )

    def merge(self) -> None:
        """Add the adapters to the weights they sit on, and remove them."""
        self._finish(merge=True)

    def remove(self) -> None:
        """Take the adapters off; the weights below are as they were."""
        self._finish(merge=False)

    def _finish(self, *, merge: bool) -> None:
        if "adapter" not in self._host.parts:
            raise InputError("the adapters were already merged or removed; add new ones first")
        with keep_training(self._host.model):
            if merge:
                self._peft.merge_and_unload(safe_merge=True)
            else:
                self._peft.unload()
        self._host.set_lora_modules(())


def add_lora(host: Host, config: LoraAdapterConfig) -> LoraAdapter:
    """Add fresh adapters to the host's language model. They train; nothing else changes.

    Raises:
        ConfigError: A target is no linear layer of the decoder; the message lists those there are.
        InputError: The host already carries adapters.
    """
    _check_bare(host)
    decoder = host.model.get_submodule(host.adapter.decoder_name)
    linear_layers(decoder, config.targets)
    names = "|".join(re.escape(name) for name in config.targets)
    settings = LoraConfig(
        r=config.rank,
        lora_alpha=config.alpha,
        lora_dropout=config.dropout,
        # Anchored at the decoder: a vision tower may use the same layer names.
        target_modules=rf"{re.escape(host.adapter.decoder_name)}\..*\.({names})",
        base_model_name_or_path=host.identity["name"] or None,
        revision=host.identity["revision"],
    )
    return _wrap(host, settings)


def load_lora(host: Host, directory: Path | str, *, trainable: bool = False) -> LoraAdapter:
    """Add saved adapters to a host.

    Args:
        host: A host without adapters.
        directory: What `LoraAdapter.save`, or PEFT, has written.
        trainable: Whether the adapters ask for gradients.

    Raises:
        CheckpointError: The directory holds no LoRA, or one that does not fit this host.
        InputError: The host already carries adapters.
    """
    _check_bare(host)
    place = Path(directory)
    settings = read_lora_settings(place)
    settings.inference_mode = not trainable
    adapter = _wrap(host, settings)
    try:
        load_lora_weights(adapter._peft, place, "default", trainable=trainable)
    except CheckpointError:
        adapter.remove()
        raise
    return adapter


def _wrap(host: Host, settings: LoraConfig) -> LoraAdapter:
    peft = wrap_lora(host.model, {"default": settings})
    # As in `Host.enable_gradient_checkpointing`.
    host.model.disable_input_require_grads()
    return LoraAdapter(host, peft)


def _check_bare(host: Host) -> None:
    if "adapter" in host.parts:
        raise InputError("the host already carries adapters; merge or remove them first")
