"""Gradient checkpointing (Chen et al. 2016): recompute activations of layers instead of keeping."""

from __future__ import annotations

from functools import partial

from torch import nn
from torch.utils.checkpoint import checkpoint

from chiasm.core.errors import ConfigError, InputError
from chiasm.layers.domains import Domains
from chiasm.layers.reader import Reader


def recompute_layers(model: nn.Module) -> int:
    """Turn on recomputation in all layers of transformers and readers; return how many there are.

    A layer of a frozen part recomputes too, since gradients pass through it to the parts below: the
    layer itself (not what it holds, so its dropout rests) is told that it trains, which is what
    transformers asks before it recomputes.

    Raises:
        ConfigError: No layer of the model can be recomputed, or a reader's layers cannot.
    """
    from transformers.modeling_layers import GradientCheckpointingLayer

    layers = [
        module for module in model.modules() if isinstance(module, GradientCheckpointingLayer)
    ]
    readers = [module for module in model.modules() if isinstance(module, Reader)]
    if not layers and not readers:
        raise ConfigError(
            f"gradient_checkpointing: {type(model).__name__} has no layer of transformers and no "
            "reader that can be recomputed; turn it off"
        )
    if any(isinstance(m, Domains) and m.adapters is not None for m in model.modules()):
        raise ConfigError(
            "gradient_checkpointing: layers with an adapter for each domain know the domains of "
            "their rows only while they are read, not in the backward pass; turn it off, or leave "
            "the adapters out"
        )
    for layer in layers:
        layer.gradient_checkpointing = True
        layer._gradient_checkpointing_func = partial(checkpoint, use_reentrant=False)
        layer.training = True
    return len(layers) + sum(_recompute_reader(reader) for reader in readers)


def _recompute_reader(reader: Reader) -> int:
    try:
        return reader.recompute_layers()
    except InputError as error:
        raise ConfigError(f"gradient_checkpointing: {error}") from None
