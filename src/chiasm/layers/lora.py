"""PEFT's LoRA on any module: wrapping it, and reading the files of its adapters."""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from peft import LoraConfig, PeftConfig, PeftModel
from peft.tuners.lora import LoraLayer
from torch import nn

from chiasm.core.errors import CheckpointError, ConfigError, InputError

FILES = ("adapter_config.json", "adapter_model.safetensors")
"""What PEFT writes for one adapter."""


def read_lora_settings(place: Path) -> LoraConfig:
    """Read the settings of a saved adapter.

    Raises:
        CheckpointError: The folder holds no adapter, or another kind than LoRA.
    """
    missing = [name for name in FILES if not (place / name).is_file()]
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
    return settings


def load_lora_weights(peft: Any, place: Path, name: str, *, trainable: bool) -> None:
    """Read the weights of a saved adapter into one that PEFT's wrapper already has.

    Raises:
        CheckpointError: The weights do not fit.
    """
    try:
        report = peft.load_adapter(str(place), name, is_trainable=trainable, use_safetensors=True)
    except RuntimeError as error:
        raise CheckpointError(
            f"the adapter in {place} does not fit: {error}; load it on the model it was trained on"
        ) from None
    # PEFT also counts the weights of the other adapters as missing.
    own = re.compile(rf"\.lora_\w+\.{re.escape(name)}(\.|$)")
    missing = [key for key in report.missing_keys if own.search(key)]
    faults = [*missing, *report.unexpected_keys]
    if faults:
        raise CheckpointError(
            f"the adapter in {place} does not fit this model: {len(missing)} keys missing, "
            f"{len(report.unexpected_keys)} unexpected ({', '.join(faults[:3])}); load it on the "
            "model it was trained on"
        )


def linear_layers(module: nn.Module, targets: Sequence[str] = ()) -> list[str]:
    """Return the names of the linear layers inside a module, or of those whose last part is asked.

    Raises:
        ConfigError: A target names none; the message lists those there are.
        InputError: The module already carries adapters, or has no linear layer inside.
    """
    if any(isinstance(layer, LoraLayer) for layer in module.modules()):
        raise InputError("the module already carries adapters; merge or remove them first")
    found = [
        name for name, layer in module.named_modules() if name and isinstance(layer, nn.Linear)
    ]
    if not found:
        raise InputError(
            f"{type(module).__name__} has no linear layer inside for adapters to sit on; give a "
            "module that does"
        )
    known = {name.rpartition(".")[2] for name in found}
    unknown = [name for name in targets if name not in known]
    if unknown:
        raise ConfigError(
            f"no such linear layer in {type(module).__name__}",
            [f"{name!r}; known: {', '.join(sorted(known))}" for name in unknown],
        )
    return [name for name in found if not targets or name.rpartition(".")[2] in targets]


def lora_modules(module: nn.Module) -> list[nn.Module]:
    """Return the modules that hold the weights of adapters."""
    return [
        child
        for layer in module.modules()
        if isinstance(layer, LoraLayer)
        for name, child in layer.named_children()
        if name != "base_layer"
    ]


@contextmanager
def keep_training(module: nn.Module) -> Iterator[None]:
    """Give the parameters that a module has now their `requires_grad` back after the block.

    PEFT freezes all that is not its own; what trains is declared elsewhere, by part.
    """
    before = {id(value): (value, value.requires_grad) for value in module.parameters()}
    yield
    for value in module.parameters():
        if id(value) in before:
            value.requires_grad_(before[id(value)][1])


def wrap_lora(module: nn.Module, settings: Mapping[str, LoraConfig]) -> Any:
    """Return PEFT's wrapper around a module that now carries adapters, changed in nothing else.

    Args:
        module: The module, changed in place.
        settings: By name of the adapter; the first is the one that PEFT activates.
    """
    (first, opening), *others = settings.items()
    with keep_training(module), warnings.catch_warnings():
        # PEFT asks transformers under a name that newer releases warn about.
        warnings.filterwarnings("ignore", "`is_gradient_checkpointing`", FutureWarning)
        peft = PeftModel(module, opening, adapter_name=first)
        for name, one in others:
            peft.add_adapter(name, one)
    for layer in module.modules():
        if isinstance(layer, LoraLayer):
            # What PEFT adds is in training mode, whatever the layer is in: dropout would be on.
            layer.train(layer.get_base_layer().training)
    return peft
