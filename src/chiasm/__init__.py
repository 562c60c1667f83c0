"""chiasm gives an open vision-language model new senses.

A second eye, sight behind an occluder, a long memory for video, and a finger that points at pixels.

The names below are loaded on first use, so that `import chiasm` and `chiasm --help` do not pay for
torch and transformers.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from chiasm.core.errors import ChiasmError
    from chiasm.inference.session import Session
    from chiasm.recipes.loading import load_run as load

__version__ = "0.1.0"

__all__ = ["ChiasmError", "Session", "__version__", "load"]

_HOMES = {
    "ChiasmError": "chiasm.core.errors:ChiasmError",
    "Session": "chiasm.inference.session:Session",
    # Building a run takes its recipe, so loading lives where recipes do.
    "load": "chiasm.recipes.loading:load_run",
}


def __getattr__(name: str) -> Any:
    """Import a public name from its home module (PEP 562)."""
    if name not in _HOMES:
        raise AttributeError(
            f"module 'chiasm' has no attribute '{name}'; it offers {', '.join(__all__)}"
        )
    home, _, original = _HOMES[name].partition(":")
    value = getattr(import_module(home), original)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(set(globals()) | set(_HOMES))
