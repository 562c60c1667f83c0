"""Cutting a model into disjoint parts without touching it."""

from __future__ import annotations

from collections.abc import Collection, Mapping

from torch import nn

from chiasm.core.errors import InputError


def leave_out(module: nn.Module, unwanted: Collection[nn.Module]) -> nn.Module:
    """Return what remains of a module when some of its submodules are left out.

    The result shares the submodules, and the parameters that modules above unwanted ones hold
    themselves; names inside it are the original ones, so the keys of its state are those of
    `module` without the unwanted.

    Args:
        module: The module to cut. It is not changed.
        unwanted: Submodules to leave out, at any depth.
    """
    unwanted_ids = {id(entry) for entry in unwanted}
    if not any(id(entry) in unwanted_ids for entry in module.modules()):
        return module
    opened = {
        id(entry)
        for entry in module.modules()
        if any(id(below) in unwanted_ids for below in entry.modules())
    }
    return _mirror(module, opened, unwanted_ids, whole=True)


def keep_only(module: nn.Module, wanted: Collection[nn.Module]) -> nn.Module:
    """Return the wanted submodules of a module under their original names; see `leave_out`."""
    wanted_ids = {id(entry) for entry in wanted}
    above = [
        entry
        for entry in module.modules()
        if id(entry) not in wanted_ids and any(id(below) in wanted_ids for below in entry.modules())
    ]
    above_ids = {id(entry) for entry in above}
    others = {
        id(child)
        for entry in above
        for child in entry.children()
        if id(child) not in wanted_ids and id(child) not in above_ids
    }
    return _mirror(module, above_ids, others, whole=False)


def _mirror(
    module: nn.Module, opened: set[int], unwanted: set[int], *, whole: bool
) -> nn.ModuleDict:
    """Copy the tree of opened modules without the unwanted; with their parameters where `whole`."""
    kept: dict[str, nn.Module] = {}
    for name, child in module.named_children():
        if id(child) in unwanted:
            continue
        part = child
        if id(child) in opened:
            part = _mirror(child, opened, unwanted, whole=whole)
            if not len(part) and next(part.parameters(), None) is None:
                continue
        kept[name] = part
    mirror = nn.ModuleDict(kept)
    if whole:
        for name, parameter in module.named_parameters(recurse=False):
            mirror.register_parameter(name, parameter)
    return mirror


def check_cover(model: nn.Module, parts: Mapping[str, nn.Module]) -> None:
    """Check that each parameter of a model lies in exactly one part.

    Raises:
        InputError: A parameter lies in no part or in two; the message names it.
    """
    owner: dict[int, str] = {}
    faults: list[str] = []
    for part, module in parts.items():
        for name, parameter in module.named_parameters():
            if id(parameter) in owner:
                faults.append(f"{part}.{name} also lies in {owner[id(parameter)]}")
            owner[id(parameter)] = part
    faults += [
        f"{name} lies in no part"
        for name, parameter in model.named_parameters()
        if id(parameter) not in owner
    ]
    if faults:
        raise InputError(
            f"the parts {', '.join(parts)} do not cover {type(model).__name__}: "
            f"{'; '.join(faults[:5])}"
        )
