"""Which parts train: names to parts, freezing, and the table that says so."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase

from rich.table import Table
from torch import nn

from chiasm.core.errors import ConfigError, UnknownNameError
from chiasm.core.protocols import Model


@dataclass(frozen=True)
class PartRow:
    """One row of the parts table.

    Attributes:
        name: Name of the part.
        total: Its parameters (numbers, not tensors).
        trainable: How many of them train.
        learning_rate: Peak learning rate, None where the part is frozen.
        dtype: Types of its weights, joined by "+" where there are several.
    """

    name: str
    total: int
    trainable: int
    learning_rate: float | None
    dtype: str


def match_parts(patterns: Iterable[str], names: Collection[str]) -> frozenset[str]:
    """Return the parts that patterns stand for.

    A pattern is an exact name, a name that stands for everything below it ("encoder" for
    "encoder.dino"), or a glob.

    Raises:
        UnknownNameError: A pattern matches no part; the message lists the parts.
    """
    found: set[str] = set()
    for pattern in patterns:
        matched = {name for name in names if part_matches(pattern, name)}
        if not matched:
            raise UnknownNameError("part", pattern, names)
        found |= matched
    return frozenset(found)


def change_parts(
    current: Collection[str], change: Mapping[str, bool] | Iterable[str], names: Collection[str]
) -> frozenset[str]:
    """Return the parts that train after a change.

    Args:
        current: The parts that train before.
        change: True or False by pattern of `match_parts`, where parts that are not named stay as
            they are; or the patterns of exactly the parts that train.
        names: All parts.

    Raises:
        UnknownNameError: A pattern matches no part.
        ConfigError: Nothing would train.
    """
    if isinstance(change, Mapping):
        chosen = set(current)
        for pattern, trains in change.items():
            matched = match_parts([pattern], names)
            chosen = chosen | matched if trains else chosen - matched
    else:
        chosen = set(match_parts(change, names))
    if not chosen:
        raise ConfigError(f"nothing would train; the parts are {', '.join(names)}")
    return frozenset(chosen)


def part_matches(pattern: str, name: str) -> bool:
    """Whether a pattern of `match_parts` stands for the part `name`."""
    return name == pattern or name.startswith(f"{pattern}.") or fnmatchcase(name, pattern)


def part_rate(name: str, default: float, by_pattern: Mapping[str, float]) -> float:
    """Return the learning rate of a part: of the longest pattern that matches, else the default.

    The longest is the most particular: "encoder.dino" beats "encoder.*".
    """
    matching = [pattern for pattern in by_pattern if part_matches(pattern, name)]
    return by_pattern[max(matching, key=len)] if matching else default


def named_parameters(model: Model) -> Iterator[tuple[str, str, nn.Parameter]]:
    """Yield (part, "part/parameter", parameter) for each parameter once."""
    for part, module in model.parts.items():
        for name, parameter in module.named_parameters():
            yield part, f"{part}/{name}", parameter


def check_ownership(model: nn.Module) -> None:
    """Check that each parameter of the model lies in exactly one part.

    Raises:
        ConfigError: Parameters lie in two parts or in none; each is named.
    """
    if not isinstance(model, Model):
        raise ConfigError(
            f"{type(model).__name__} is no Model: it needs parts, new_parts, identity and probe"
        )
    owners: dict[int, str] = {}
    faults: list[str] = []
    for _, name, parameter in named_parameters(model):
        first = owners.setdefault(id(parameter), name)
        if first != name:
            faults.append(f"{name} is also {first}; give it to one part")
    for name, parameter in model.named_parameters():
        if id(parameter) not in owners:
            faults.append(f"{name} lies in no part; the parts are {', '.join(model.parts)}")
    if faults:
        raise ConfigError("the parts of the model do not divide its parameters", faults)


def freeze_all_but(model: Model, trainable: Collection[str]) -> None:
    """Freeze all parts but the given ones.

    Frozen parts keep no gradient and are put into evaluation mode, so that their dropout rests and
    their running statistics stay; the optimizer keeps what it knows of them for a later stage.

    Raises:
        ConfigError: A part that should train holds weights that cannot (whole numbers).
    """
    for name, module in model.parts.items():
        trains = name in trainable
        module.train(trains)
        for parameter_name, parameter in module.named_parameters():
            if trains and not parameter.is_floating_point():
                raise ConfigError(
                    f"part {name!r}: {parameter_name} has type {parameter.dtype} and cannot train; "
                    "freeze the part or load it unquantised"
                )
            parameter.requires_grad_(trains)
            if not trains:
                parameter.grad = None


def parts_table(
    model: Model, trainable: Collection[str], learning_rates: Mapping[str, float] | None = None
) -> list[PartRow]:
    """Describe each part of a model.

    Args:
        model: The model.
        trainable: Names of the parts that train.
        learning_rates: Peak learning rate by part.
    """
    rows = []
    for name, module in model.parts.items():
        parameters = list(module.parameters())
        total = sum(parameter.numel() for parameter in parameters)
        dtypes = sorted({str(parameter.dtype).removeprefix("torch.") for parameter in parameters})
        trains = name in trainable
        rows.append(
            PartRow(
                name=name,
                total=total,
                trainable=total if trains else 0,
                learning_rate=(learning_rates or {}).get(name) if trains else None,
                dtype="+".join(dtypes) or "-",
            )
        )
    return rows


def render_parts(rows: Iterable[PartRow], title: str = "PARAMETER FREEZE STATUS") -> Table:
    """Return the parts table for a terminal."""
    table = Table(title=title, title_style="bold")
    table.add_column("part")
    for heading in ("total", "trainable", "learning rate"):
        table.add_column(heading, justify="right")
    table.add_column("type")
    table.add_column("status")
    for row in rows:
        rate = "" if row.learning_rate is None else f"{row.learning_rate:.3g}"
        table.add_row(
            row.name, f"{row.total:,}", f"{row.trainable:,}", rate, row.dtype, status(row)
        )
    return table


def parts_lines(rows: Iterable[PartRow]) -> list[str]:
    """Return the parts table as plain lines, one a part."""
    rows = list(rows)
    width = max((len(row.name) for row in rows), default=0)
    return [
        f"{row.name:<{width}} : {row.total:>13,} total, {row.trainable:>13,} trainable "
        f"{status(row)}"
        for row in rows
    ]


def status(row: PartRow) -> str:
    """`TRAINABLE`, or `FROZEN`."""
    return "TRAINABLE" if row.trainable else "FROZEN"
