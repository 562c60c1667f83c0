"""Standing in for a decoder's attention implementation, through the library's own interfaces.

Each implementation has a twin, registered once, that calls it and then whoever listens at the
calling module. A module nobody listens at runs exactly as before, so that two models which share a
configuration object do not disturb each other.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any
from weakref import WeakKeyDictionary

from torch import nn
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from chiasm.core.errors import InputError

PREFIX = "chiasm.tap."
"""Before the name of an implementation: its twin."""

Listener = Callable[[Any, Any, Any, Any, dict[str, Any]], None]
"""Called with module, query, key, mask and the further arguments, after the implementation ran."""

_lock = threading.Lock()
_listeners: WeakKeyDictionary[nn.Module, tuple[Listener, ...]] = WeakKeyDictionary()
_stand_ins: dict[int, tuple[int, str | None]] = {}
"""By identity of a configuration: how many stand in, and the name to go back to."""


@contextmanager
def intercepted(config: Any, modules: Sequence[nn.Module], listener: Listener) -> Iterator[None]:
    """Let `listener` hear every attention call of `modules`.

    Args:
        config: The configuration that names the implementation these modules use.
        modules: Attention modules.
        listener: What to call; it runs in the thread of the call.

    Raises:
        InputError: The implementation has no twin.
    """
    with _lock:
        _stand_in(config)
        for module in modules:
            _listeners[module] = (*_listeners.get(module, ()), listener)
    try:
        yield
    finally:
        with _lock:
            for module in modules:
                left = list(_listeners[module])
                left.remove(listener)
                if left:
                    _listeners[module] = tuple(left)
                else:
                    del _listeners[module]
            _step_back(config)


def _stand_in(config: Any) -> None:
    count, name = _stand_ins.get(id(config), (0, config._attn_implementation))
    if not count:
        _register(name or "eager")
        config._attn_implementation = PREFIX + (name or "eager")
    _stand_ins[id(config)] = (count + 1, name)


def _step_back(config: Any) -> None:
    count, name = _stand_ins.pop(id(config))
    if count > 1:
        _stand_ins[id(config)] = (count - 1, name)
    else:
        config._attn_implementation = name


def _register(name: str) -> None:
    """Register the twin of an implementation, once."""
    if PREFIX + name in ALL_ATTENTION_FUNCTIONS:
        return
    if name == "flex_attention" or name not in ALL_MASK_ATTENTION_FUNCTIONS:
        raise InputError(
            f"attention implementation {name!r} cannot be tapped: its masks are not tensors that "
            "tell who sees whom; use 'sdpa', 'eager' or a flash attention"
        )
    AttentionInterface.register(PREFIX + name, partial(_attend, name))
    # Without a mask of its own, a name that the library does not know loses the padding mask.
    AttentionMaskInterface.register(PREFIX + name, ALL_MASK_ATTENTION_FUNCTIONS[name])


def _attend(
    name: str, module: Any, query: Any, key: Any, value: Any, attention_mask: Any, **kwargs: Any
) -> Any:
    if name == "eager":
        # The one implementation that each family defines for itself, under this name.
        own = vars(sys.modules[type(module).__module__])["eager_attention_forward"]
    else:
        own = ALL_ATTENTION_FUNCTIONS[name]
    output = own(module, query, key, value, attention_mask, **kwargs)
    for listener in _listeners.get(module, ()):
        listener(module, query, key, attention_mask, kwargs)
    return output
