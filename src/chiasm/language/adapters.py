"""Low-rank adapters on the language model, through PEFT and in PEFT's own file format.

LoRA (arXiv:2106.09685), equation 3: h = W x + (alpha / rank) B A x, with B zero at the start, so
that a fresh adapter changes nothing.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from peft import LoraConfig, PeftConfig, PeftModel
from peft.tuners.lora import LoraLayer
from pydantic import Field
from torch import nn

from chiasm.core.config import Config
from chiasm.core.errors import CheckpointError, ConfigError, InputError
from chiasm.language.host import Host

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
        host.set_lora_modules(_lora_modules(host.model))

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
        trained = _trained(self._host.model)
        if merge:
            self._peft.merge_and_unload(safe_merge=True)
        else:
            self._peft.unload()
        self._host.set_lora_modules(())
        _restore(self._host.model, trained)


def add_lora(host: Host, config: LoraAdapterConfig) -> LoraAdapter:
    """Add fresh adapters to the host's language model. They train; nothing else changes.

    Raises:
        ConfigError: A target is no linear layer of the decoder; the message lists those there are.
        InputError: The host already carries adapters.
    """
    _check_bare(host)
    decoder = host.model.get_submodule(host.adapter.decoder_name)
    known = {
        name.rpartition(".")[2]
        for name, module in decoder.named_modules()
        if isinstance(module, nn.Linear)
    }
    unknown = [f"{name!r}; known: {', '.join(sorted(known))}" for name in config.targets]
    unknown = [
        line for line, name in zip(unknown, config.targets, strict=True) if name not in known
    ]
    if unknown:
        raise ConfigError("no such linear layer in the host's decoder", unknown)
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
    missing = [
        name
        for name in ("adapter_config.json", "adapter_model.safetensors")
        if not (place / name).is_file()
    ]
    if missing:
        raise CheckpointError(
            f"{place} holds no adapter: {', '.join(missing)} missing; name the directory that "
            "`save` has written (pickled adapters are not read)"
        )
    settings = PeftConfig.from_pretrained(str(place))
    if not isinstance(settings, LoraConfig):
        raise CheckpointError(
            f"{place} holds a {settings.peft_type} adapter; only LORA is supported"
        )
    settings.inference_mode = not trainable
    adapter = _wrap(host, settings)
    report = adapter._peft.load_adapter(
        str(place), "default", is_trainable=trainable, use_safetensors=True
    )
    faults = [*report.missing_keys, *report.unexpected_keys]
    if faults:
        adapter.remove()
        raise CheckpointError(
            f"the adapter in {place} does not fit this host: {len(report.missing_keys)} keys "
            f"missing, {len(report.unexpected_keys)} unexpected ({', '.join(faults[:3])}); load it "
            "on the host it was trained on"
        )
    return adapter


def _wrap(host: Host, settings: LoraConfig) -> LoraAdapter:
    trained = _trained(host.model)
    with warnings.catch_warnings():
        # PEFT asks transformers under a name that newer releases warn about.
        warnings.filterwarnings("ignore", "`is_gradient_checkpointing`", FutureWarning)
        peft = PeftModel(host.model, settings)
    # PEFT freezes all that is not its own; what trains is declared elsewhere, by part.
    _restore(host.model, trained)
    # As in `Host.enable_gradient_checkpointing`.
    host.model.disable_input_require_grads()
    return LoraAdapter(host, peft)


def _check_bare(host: Host) -> None:
    if "adapter" in host.parts:
        raise InputError("the host already carries adapters; merge or remove them first")


def _lora_modules(model: nn.Module) -> list[nn.Module]:
    return [
        child
        for layer in model.modules()
        if isinstance(layer, LoraLayer)
        for name, child in layer.named_children()
        if name != "base_layer"
    ]


def _trained(model: nn.Module) -> Mapping[int, tuple[nn.Parameter, bool]]:
    return {id(value): (value, value.requires_grad) for value in model.parameters()}


def _restore(model: nn.Module, trained: Mapping[int, tuple[nn.Parameter, bool]]) -> None:
    for value in model.parameters():
        if id(value) in trained:
            value.requires_grad_(trained[id(value)][1])
