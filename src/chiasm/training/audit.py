"""The audit: what was declared to train, what received gradient, and what moved."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

import torch
from torch import Tensor

from chiasm.core.counting import counters
from chiasm.core.errors import AuditError
from chiasm.core.protocols import Model
from chiasm.training.freezing import named_parameters
from chiasm.training.weights import part_tensors

_CHUNK = 1 << 22
_MULTIPLIER = 0x5851F42D4C957F2D


@dataclass
class AuditRow:
    """What the audit knows of one part.

    Attributes:
        part: Name of the part.
        declared: Whether it should train.
        parameters: Number of parameter tensors.
        enabled: How many require a gradient.
        grouped: How many the optimizer has.
        gradient: Names of those that got a gradient that is not all zero; None where gradients
            cannot be seen.
        zero: Names of those that got a gradient, but all zero so far.
        moved: How many weights (tensors) differ from before the first step; in a frozen part,
            buffers count too.
    """

    part: str
    declared: bool
    parameters: int
    enabled: int
    grouped: int
    gradient: list[str] | None = field(default_factory=list)
    zero: list[str] = field(default_factory=list)
    moved: int = 0

    def fault(self) -> str:
        """What is wrong with the part for good; empty when nothing is."""
        if not self.declared and self.enabled:
            return f"frozen, but {self.enabled} parameters require a gradient"
        if not self.declared and self.moved:
            return "frozen, but its weights or buffers changed"
        if self.declared and self.enabled < self.parameters:
            return f"only {self.enabled} of {self.parameters} parameters require a gradient"
        if self.declared and self.grouped < self.parameters:
            return f"the optimizer has only {self.grouped} of {self.parameters} parameters"
        return ""

    def waiting(self) -> str:
        """What has not happened yet to a part that should train; empty when all has."""
        if not self.declared or not self.parameters:
            return ""
        if self.gradient == []:
            if self.zero:
                return (
                    "its gradient is exactly zero; behind a zero-initialised output it is so at "
                    "first and no longer"
                )
            return "no gradient reaches it"
        if not self.moved:
            return (
                "it has a gradient but none of its weights changed; the learning rate is too small "
                "for their type"
            )
        return ""


class Audit:
    """Watches the first steps of a stage.

    Frozen parts must stay bit for bit (their fingerprints are compared after the first step and
    again at the end of the stage). Parts that train must get a gradient that is not zero, and must
    move. A part behind a zero-initialised output rightly gets a zero gradient in the first step, so
    such a part is looked at again, up to `patience` steps.

    Args:
        model: The model.
        declared: Parts that should train.
        grouped: Ids of the parameters that the optimizer has.
        patience: Steps after which a part that should train must have moved.
        sees_gradients: Whether gradients can be read between backward pass and step.
    """

    def __init__(
        self,
        model: Model,
        declared: Collection[str],
        grouped: Collection[int],
        patience: int,
        sees_gradients: bool = True,
    ) -> None:
        self.steps = 0
        self.patience = patience
        self.baseline = fingerprints(model)
        self.rows = {
            part: AuditRow(
                part=part,
                declared=part in declared,
                parameters=len(list(module.parameters())),
                enabled=sum(parameter.requires_grad for parameter in module.parameters()),
                grouped=sum(id(parameter) in grouped for parameter in module.parameters()),
                gradient=[] if sees_gradients else None,
            )
            for part, module in model.parts.items()
        }
        self.open = True

    def see_gradients(self, model: Model) -> None:
        """Note which parameters have a gradient; call between backward pass and step."""
        for part, name, parameter in named_parameters(model):
            row = self.rows[part]
            if row.gradient is None or parameter.grad is None or name in row.gradient:
                continue
            if bool(parameter.grad.count_nonzero()):
                row.gradient.append(name)
                row.zero = [other for other in row.zero if other != name]
            elif name not in row.zero:
                row.zero.append(name)

    def see_step(self, model: Model) -> list[str]:
        """Judge after an optimizer step.

        Returns:
            One line for each part that is still waited for; empty when the audit is done.

        Raises:
            AuditError: Declaration and fact disagree; the message holds the table.
        """
        self.steps += 1
        self._compare(model)
        faults = [f"{row.part}: {row.fault()}" for row in self.rows.values() if row.fault()]
        waiting = [f"{row.part}: {row.waiting()}" for row in self.rows.values() if row.waiting()]
        if faults or (waiting and self.steps >= self.patience):
            self._fail(faults + waiting)
        self.open = bool(waiting)
        return waiting

    def see_end(self, model: Model) -> None:
        """Judge frozen parts at the end of a stage.

        Raises:
            AuditError: A frozen part changed since the stage began.
        """
        self._compare(model)
        faults = [
            f"{row.part}: {row.fault()}"
            for row in self.rows.values()
            if not row.declared and row.fault()
        ]
        if faults:
            self._fail(faults)

    def lines(self) -> list[str]:
        """The table as plain lines: declared, gradient seen, weight moved."""
        head = f"{'part':<24} {'declared':<9} {'requires':<9} {'gradient':<9} {'zero':<5} moved"
        return [head] + [
            f"{row.part:<24} {_yes(row.declared):<9} {row.enabled}/{row.parameters:<7} "
            f"{'unseen' if row.gradient is None else len(row.gradient)!s:<9} {len(row.zero):<5} "
            f"{row.moved}"
            for row in self.rows.values()
        ]

    def to_json(self) -> dict[str, Any]:
        """Return plain values, for a checkpoint."""
        return {
            "steps": self.steps,
            "open": self.open,
            "baseline": self.baseline,
            "rows": {part: asdict(row) for part, row in self.rows.items()},
        }

    def restore(self, values: Mapping[str, Any]) -> None:
        """Take up what `to_json` returned."""
        self.steps, self.open = values["steps"], values["open"]
        self.baseline = dict(values["baseline"])
        self.rows = {part: AuditRow(**row) for part, row in values["rows"].items()}

    def _compare(self, model: Model) -> None:
        now = fingerprints(model)
        weights = {name for _, name, _ in named_parameters(model)}
        for part, row in self.rows.items():
            # Running statistics move by themselves: they prove nothing of a part that trains, and
            # must rest in one that is frozen.
            own = [name for name in now if name.startswith(f"{part}/")]
            watched = [name for name in own if name in weights or not row.declared]
            row.moved = sum(now[name] != self.baseline[name] for name in watched)

    def _fail(self, faults: Iterable[str]) -> None:
        listed = "\n".join(f"  - {fault}" for fault in faults)
        table = "\n".join(f"    {line}" for line in self.lines())
        raise AuditError(
            f"after {self.steps} step(s), what was declared to train and what happened disagree; "
            f"mend the stage's `train` or the model\n{listed}\n{table}"
        )


def fingerprints(model: Model) -> dict[str, int]:
    """Return a fingerprint of each parameter and persistent buffer, named "part/name".

    Buffers that count are left out: they move in every part.
    """
    tensors = part_tensors(model, model.parts)
    counting = {f"{part}/{one}" for part in model.parts for one in counters(model.parts[part])}
    return {
        name: fingerprint(tensor.detach())
        for name, tensor in tensors.items()
        if name not in counting
    }


def fingerprint(tensor: Tensor) -> int:
    """Return a 64-bit sum over the bits of a tensor that depends on the place of each.

    Each element's bits, as a whole number, are multiplied by an odd number of their own and added
    modulo 2^64. One changed element always changes the sum; several do unless they cancel, a chance
    of about 2^-64. It runs where the tensor is and needs 16 bytes an element of one chunk.
    """
    flat = tensor.contiguous().flatten()
    if flat.is_complex():
        flat = torch.view_as_real(flat).flatten()
    kinds = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}
    bits = flat.view(kinds[flat.element_size()]) if flat.numel() else flat.to(torch.int64)
    total = 0
    for start in range(0, bits.numel(), _CHUNK):
        chunk = bits[start : start + _CHUNK].to(torch.int64)
        places = torch.arange(start, start + chunk.numel(), device=chunk.device)
        # (i * even) + 1 is odd, so no change of one element is lost modulo 2^64.
        factors = places * (_MULTIPLIER - 1) + 1
        total += int((chunk * factors).sum())
    return total % (1 << 64)


def _yes(value: bool) -> str:
    return "yes" if value else "no"
