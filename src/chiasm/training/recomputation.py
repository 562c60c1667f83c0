"""Gradient checkpointing (Chen et al. 2016): recompute activations of layers instead of keeping."""

from __future__ import annotations

from functools import partial

from torch import nn
from torch.utils.checkpoint import checkpoint

from chiasm.core.errors import ConfigError


def recompute_layers(model: nn.Module) -> int:
    """Turn on recomputation in all transformer layers; return how many there are.

    A layer of a frozen part recomputes too, since gradients pass through it to the parts below: the
    layer itself (not what it holds, so its dropout rests) is told that it trains, which is what
    transformers asks before it recomputes.

    Raises:
        ConfigError: No layer of the model can be recomputed.
    """
    from transformers.modeling_layers import GradientCheckpointingLayer

    layers = [
        module for module in model.modules() if isinstance(module, GradientCheckpointingLayer)
    ]
    if not layers:
        raise ConfigError(
            f"gradient_checkpointing: {type(model).__name__} has no transformers layer that can be "
            "recomputed; turn it off"
        )
    for layer in layers:
        layer.gradient_checkpointing = True
        layer._gradient_checkpointing_func = partial(checkpoint, use_reentrant=False)
        layer.training = True
    return len(layers)
