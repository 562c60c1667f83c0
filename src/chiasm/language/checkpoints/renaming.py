"""State dictionaries under other names, and loading them without a word left unsaid."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from torch import Tensor, nn

from chiasm.core.config import lookup
from chiasm.core.errors import CheckpointError

Rule = tuple[str, str, str]
"""A pattern that a whole published name must match, the module it belongs to, its name in that.

The module `WITHOUT_EFFECT` is for tensors that change nothing of what the model computes.
"""

WITHOUT_EFFECT = ""

Modules = dict[str, dict[str, Tensor]]
"""By module (`host`, `fusion`, `encoder`), a state dictionary in its names."""


@dataclass(frozen=True)
class Renamed:
    """A published state dictionary in our names.

    Attributes:
        modules: By module, its tensors by their names in it.
        unknown: Published names that no rule knows; nothing was done with them.
        without_effect: Published names that are known and left out, since what the model computes
            does not depend on them.
    """

    modules: Modules
    unknown: tuple[str, ...]
    without_effect: tuple[str, ...] = ()


def rename(state: Mapping[str, Tensor], rules: Sequence[Rule]) -> Renamed:
    """Give each tensor its module and its name in it; the first rule that matches decides."""
    modules: Modules = {module: {} for _, module, _ in rules}
    unknown: list[str] = []
    compiled = [(re.compile(pattern), module, target) for pattern, module, target in rules]
    for name, tensor in state.items():
        for pattern, module, target in compiled:
            if found := pattern.fullmatch(name):
                modules[module][found.expand(target)] = tensor
                break
        else:
            unknown.append(name)
    idle = modules.pop(WITHOUT_EFFECT, {})
    return Renamed(modules, tuple(unknown), tuple(idle))


def load_renamed(
    renamed: Renamed, modules: Mapping[str, nn.Module], elsewhere: Sequence[str] = ()
) -> None:
    """Write renamed tensors into modules, all or nothing.

    Args:
        renamed: What to write.
        modules: By the module names of `renamed`: the host's `model`, the fusion, the encoder.
        elsewhere: Beginnings of names, `MODULE/name`, that the checkpoint may lack because they
            come from another one (`host/model.vision_tower.` for a tower that was never tuned).

    Raises:
        CheckpointError: A published name is unknown, or tensors are missing, left over or of
            another shape; each kind is counted and its first names are given. Nothing was written.
    """
    faults: list[str] = []
    _tell(faults, "published names that no rule knows", renamed.unknown)
    for name, state in renamed.modules.items():
        own = lookup(modules, name, "module of a renamed checkpoint").state_dict()
        prefixes = tuple(entry.partition("/")[2] for entry in elsewhere if entry.startswith(name))
        missing = [key for key in own if key not in state and not key.startswith(prefixes)]
        shapes = [
            f"{key} {tuple(state[key].shape)} for {tuple(own[key].shape)}"
            for key in own
            if key in state and state[key].shape != own[key].shape
        ]
        _tell(faults, f"missing from {name}", missing)
        _tell(faults, f"unknown to {name}", [key for key in state if key not in own])
        _tell(faults, f"of another shape in {name}", shapes)
    if faults:
        raise CheckpointError(
            "the published checkpoint does not fit the model, and nothing was loaded: "
            + "; ".join(faults)
            + ". Build the model from the checkpoint's own configuration"
        )
    for name, state in renamed.modules.items():
        modules[name].load_state_dict(state, strict=False)


def _tell(faults: list[str], what: str, names: Sequence[str]) -> None:
    if names:
        more = ", ..." if len(names) > 3 else ""
        faults.append(f"{len(names)} {what} ({', '.join(names[:3])}{more})")
