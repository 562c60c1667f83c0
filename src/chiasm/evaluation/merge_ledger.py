"""The merge ledger: what each stage of watching a video takes in, gives out, and costs.

    decode -> encode -> merge -> read -> predict

Merging may happen inside of encoding, between its cheap first part and the rest; its time is then
taken there and subtracted from the encoder's.
"""

from __future__ import annotations

import statistics
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from time import perf_counter
from typing import Any

import torch
from torch import Tensor

from chiasm.compression.protocol import Compression
from chiasm.core.errors import InputError
from chiasm.core.tokens import VisualTokens
from chiasm.evaluation.peak_memory import peak_memory
from chiasm.evaluation.video_stages import ENCODE, LedgerStage, Merging, count_tokens

MERGE, TOTAL = "merge", "total"


@dataclass(frozen=True)
class LedgerRow:
    """What one stage took in, gave out, and cost.

    Attributes:
        name: Of the stage.
        tokens_in: Tokens it took in; None where it takes none.
        tokens_out: Tokens it gave out; None where it gives none.
        milliseconds: Wall clock of each repeat.
        peak: MiB that it holds at its peak beyond what it is given, its result included; None where
            that was not asked for. That of `encode` includes merging inside of it.
    """

    name: str
    tokens_in: int | None
    tokens_out: int | None
    milliseconds: tuple[float, ...]
    peak: float | None = None

    @property
    def median(self) -> float:
        """Median of the milliseconds."""
        return statistics.median(self.milliseconds)


@dataclass(frozen=True)
class MergeLedger:
    """The ledger of one video, or of one batch of videos.

    Attributes:
        rows: One a stage, in order, then `total`.
        context: What shaped the numbers.
    """

    rows: tuple[LedgerRow, ...]
    context: Mapping[str, Any] = field(default_factory=dict)

    def row(self, name: str) -> LedgerRow:
        """Return the row of a stage.

        Raises:
            InputError: There is no such stage.
        """
        found = [row for row in self.rows if row.name == name]
        if not found:
            names = ", ".join(row.name for row in self.rows)
            raise InputError(f"no stage {name!r} in the ledger; it has {names}")
        return found[0]

    def milliseconds(self, *names: str) -> float:
        """Return the median over repeats of the time of some stages together."""
        rows = [self.row(name) for name in names]
        return statistics.median(map(sum, zip(*(row.milliseconds for row in rows), strict=True)))

    def to_json(self) -> dict[str, Any]:
        """Return all of it in plain values."""
        rows = [{**asdict(row), "median": row.median} for row in self.rows]
        return {"rows": rows, "context": dict(self.context)}


def keep_ledger(
    stages: Sequence[LedgerStage],
    source: Any,
    *,
    merging: Merging | None = None,
    within: str = ENCODE,
    repeats: int = 5,
    warm_up: int = 1,
    memory: bool = True,
    context: Mapping[str, Any] | None = None,
) -> MergeLedger:
    """Run stages one after another, and keep the ledger.

    Args:
        stages: In order.
        source: What the first one is given.
        merging: Whose compression is timed by itself; None where merging is a stage or there is
            none.
        within: The stage in which it runs.
        repeats: Runs that count, at least 1.
        warm_up: Runs before them that do not.
        memory: Whether each stage is run again in a forked process to see its peak memory: on Linux
            and without an accelerator. The process must have one thread.
        context: What shaped the numbers, for the page.

    Raises:
        InputError: There is nothing to run, or memory cannot be measured here.
    """
    names = [stage.name for stage in stages]
    if not stages or repeats < 1 or warm_up < 0:
        raise InputError(
            f"{len(stages)} stages, {repeats} repeats, {warm_up} for warm-up; allowed: at least 1, "
            "1 and 0"
        )
    if merging is not None and within not in names:
        raise InputError(f"no stage {within!r} to merge in; stages: {', '.join(names)}")
    if memory:
        _check_one_thread()
    merged: list[_Observed] = []
    runs: list[dict[str, float]] = []
    with torch.inference_mode():
        for _ in range(warm_up + repeats):
            with _observing(merging) as observed:
                seconds, values = _run(stages, source)
            if observed is not None:
                seconds[MERGE] = observed.seconds
                seconds[within] -= observed.overhead
                merged = [observed]
            runs.append(seconds)
        rows = _rows(stages, values, runs[warm_up:], merged, within)
        if memory:
            rows = [_with_peak(row, stages, source, values, merged) for row in rows]
    spent = tuple(1000 * sum(run.values()) for run in runs[warm_up:])
    first, last = rows[0], rows[-1]
    peak = peak_memory(lambda: _whole(stages, source)) if memory else None
    total = LedgerRow(TOTAL, first.tokens_in, last.tokens_out, spent, peak)
    told = {"threads": torch.get_num_threads(), "repeats": repeats, **(context or {})}
    return MergeLedger((*rows, total), told)


class _Observed:
    """A compression that tells what went through it.

    Attributes:
        calls: The arguments of each call.
        counts: Tokens in and out, summed over calls.
        seconds: Time inside of the compression.
        overhead: That, and the time for looking.
    """

    def __init__(self, inner: Compression) -> None:
        self.inner = inner
        self.calls: list[tuple[tuple[Any, ...], dict[str, Any]]] = []
        self.counts = [0, 0]
        self.seconds = 0.0
        self.overhead = 0.0

    def compress(
        self,
        tokens: VisualTokens,
        frames: Sequence[Tensor] | None = None,
        *,
        importance: Tensor | None = None,
        attention: Sequence[Tensor] | None = None,
        progress: float = 1.0,
    ) -> VisualTokens:
        """As the compression itself."""
        began = _now()
        options = {"importance": importance, "attention": attention, "progress": progress}
        self.calls.append(((tokens, frames), options))
        self.counts[0] += count_tokens(tokens)
        start = _now()
        merged = self.inner.compress(tokens, frames, **options)  # type: ignore[arg-type]
        self.seconds += _now() - start
        self.counts[1] += count_tokens(merged)
        self.overhead += _now() - began
        return merged

    def again(self) -> list[VisualTokens]:
        """Do all calls once more."""
        return [self.inner.compress(*given, **options) for given, options in self.calls]


@contextmanager
def _observing(merging: Merging | None) -> Iterator[_Observed | None]:
    """Put an observed compression in place of a model's own while the block runs."""
    own = None if merging is None else merging.compression
    if merging is None or own is None:
        yield None
        return
    observed = _Observed(own)
    merging.compression = observed
    try:
        yield observed
    finally:
        merging.compression = own


def _run(stages: Sequence[LedgerStage], source: Any) -> tuple[dict[str, float], dict[str, Any]]:
    """Return seconds, and what each stage gave, by name."""
    seconds: dict[str, float] = {}
    values: dict[str, Any] = {}
    for stage in stages:
        start = _now()
        source = stage.run(source)
        seconds[stage.name] = _now() - start
        values[stage.name] = source
    return seconds, values


def _whole(stages: Sequence[LedgerStage], source: Any) -> Any:
    with torch.inference_mode():
        for stage in stages:
            source = stage.run(source)
    return source


def _rows(
    stages: Sequence[LedgerStage],
    values: Mapping[str, Any],
    runs: Sequence[Mapping[str, float]],
    merged: Sequence[_Observed],
    within: str,
) -> list[LedgerRow]:
    rows: list[LedgerRow] = []
    before: int | None = None
    for stage in stages:
        after = None if stage.tokens is None else stage.tokens(values[stage.name])
        rows.append(_row(stage.name, before, after, runs))
        if merged and stage.name == within:
            rows.append(_row(MERGE, merged[0].counts[0], merged[0].counts[1], runs))
        before = after
    return rows


def _row(
    name: str, before: int | None, after: int | None, runs: Sequence[Mapping[str, float]]
) -> LedgerRow:
    return LedgerRow(name, before, after, tuple(1000 * run[name] for run in runs))


def _with_peak(
    row: LedgerRow,
    stages: Sequence[LedgerStage],
    source: Any,
    values: Mapping[str, Any],
    merged: Sequence[_Observed],
) -> LedgerRow:
    names = [stage.name for stage in stages]
    if row.name not in names:
        way: Callable[[], Any] = merged[0].again
    else:
        place = names.index(row.name)
        given = values[names[place - 1]] if place else source
        run = stages[place].run

        def way() -> Any:
            return run(given)

    return LedgerRow(row.name, row.tokens_in, row.tokens_out, row.milliseconds, peak_memory(way))


def _check_one_thread() -> None:
    if torch.cuda.is_initialized():
        raise InputError(
            "peak memory is measured in a forked process, and this one uses a GPU; keep the ledger "
            "with memory=False, or run the model on the CPU"
        )
    if torch.get_num_threads() != 1 or threading.active_count() != 1:
        raise InputError(
            f"peak memory is measured in a forked process, and this one has "
            f"{torch.get_num_threads()} threads for torch and {threading.active_count()} of its "
            "own; start it with OMP_NUM_THREADS=1, or keep the ledger with memory=False"
        )


def _now() -> float:
    if torch.cuda.is_initialized():
        torch.cuda.synchronize()
    return perf_counter()
