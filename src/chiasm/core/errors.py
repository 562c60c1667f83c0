"""The error tree of chiasm.

Every error that a user can cause is a child of `ChiasmError`, and its message names the value, what
was allowed, and the next step. The command line prints the message and leaves with code 1.

    ChiasmError
    |-- ConfigError          a recipe or configuration is wrong (all faults at once, in `faults`)
    |   `-- UnknownNameError   a name is not in its table
    |-- DataError            a dataset file or record is wrong (all faults at once, in `faults`)
    |   `-- MediaError         an image or video cannot be read
    |-- GeometryError        coordinates, grids or boxes do not fit together
    |-- PlaceholderError     placeholders and visual tokens disagree
    |-- CompressionError     a token budget cannot be met
    |-- CheckpointError      a run directory or checkpoint is incomplete, foreign or altered
    |   `-- ReceiptError       a loaded model does not reproduce its recorded outputs
    |-- TrainingError        a run cannot go on
    |   |-- NonFiniteLossError   the loss is not a number or infinite
    |   `-- AuditError           what was declared to train and what moved disagree
    |-- InputError           a call received a value it cannot use
    `-- MissingExtraError    an optional dependency is needed
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence


class ChiasmError(Exception):
    """Base of every error that chiasm raises on purpose."""


class FaultListError(ChiasmError):
    """An error that carries several faults, so that a user can mend them in one go.

    Attributes:
        faults: One line a fault, each naming place, value, what was allowed.
    """

    def __init__(self, title: str, faults: Sequence[str]) -> None:
        self.faults = tuple(faults)
        super().__init__("\n".join([title, *(f"  - {fault}" for fault in self.faults)]))


class ConfigError(FaultListError):
    """A recipe or configuration is wrong."""

    def __init__(self, title: str, faults: Sequence[str] = ()) -> None:
        super().__init__(title, faults)


class UnknownNameError(ConfigError):
    """A name is not in its table.

    Args:
        what: What the name stands for ("fusion", "encoder").
        name: The name that was given.
        known: The names that exist.
    """

    def __init__(self, what: str, name: object, known: Iterable[str]) -> None:
        names = sorted(known)
        near = difflib.get_close_matches(str(name), names, n=1)
        hint = f" Did you mean {near[0]!r}?" if near else ""
        super().__init__(f"unknown {what} {name!r}; known: {', '.join(names) or 'none'}.{hint}")


class DataError(FaultListError):
    """A dataset file or record is wrong."""

    def __init__(self, title: str, faults: Sequence[str] = ()) -> None:
        super().__init__(title, faults)


class MediaError(DataError):
    """An image or video cannot be read."""


class GeometryError(ChiasmError):
    """Coordinates, grids or boxes do not fit together."""


class PlaceholderError(ChiasmError):
    """The placeholders of an image and its visual tokens disagree."""


class CompressionError(ChiasmError):
    """A token budget cannot be met."""


class CheckpointError(ChiasmError):
    """A run directory or checkpoint is incomplete, foreign or altered."""


class ReceiptError(CheckpointError):
    """A loaded model does not reproduce the outputs recorded when it was saved."""


class TrainingError(ChiasmError):
    """A training run cannot go on."""


class NonFiniteLossError(TrainingError):
    """The loss is not a number or infinite."""


class AuditError(TrainingError):
    """What was declared to train, what received gradient and what moved disagree."""


class InputError(ChiasmError):
    """A call received a value it cannot use."""


class MissingExtraError(ChiasmError):
    """An optional dependency is needed.

    Args:
        package: The package that could not be imported.
        extra: The extra of chiasm that brings it.
        purpose: What it is needed for.
    """

    def __init__(self, package: str, extra: str, purpose: str) -> None:
        super().__init__(
            f"{purpose} needs the package {package!r}, which is not installed. "
            f"Install it with: pip install 'chiasm[{extra}]'"
        )
