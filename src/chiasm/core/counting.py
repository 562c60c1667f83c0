"""What goes on counting in parts that do not train."""

from __future__ import annotations

from torch import nn


class Counter(nn.Module):
    """A module whose buffers count batches of training, and so move in frozen parts as well."""


def counters(module: nn.Module) -> frozenset[str]:
    """Return the names, as in the state dict, of the buffers of all counters in a module."""
    return frozenset(
        f"{place}.{name}".lstrip(".")
        for place, one in module.named_modules()
        if isinstance(one, Counter)
        for name, _ in one.named_buffers()
    )
