"""A report on disk: the numbers, and beside them one line a prediction."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from chiasm.core.spelling import ESCAPE, spell


def predictions_path(report: Path) -> Path:
    """Return where the predictions of a report lie: `NAME.predictions.jsonl` beside it."""
    return report.with_name(f"{report.stem}.predictions.jsonl")


def page_path(report: Path) -> Path:
    """Return where the page of a report lies: `NAME.html` beside it."""
    return report.with_suffix(".html")


def write_page(path: Path, page: str) -> None:
    """Write a page; bytes of a file name that are no text as escapes."""
    path.write_text(page, encoding="utf-8", errors=ESCAPE)


def save_report(
    path: Path | str, document: Mapping[str, Any], predictions: Iterable[Mapping[str, Any]]
) -> tuple[Path, Path]:
    """Write a report, and the predictions beside it.

    Args:
        path: The report.
        document: Its numbers, as plain values.
        predictions: One object a line.

    Returns:
        Both paths.
    """
    report = Path(path)
    report.parent.mkdir(parents=True, exist_ok=True)
    report.write_text(f"{spell(document, indent=2)}\n", encoding="utf-8")
    lines = predictions_path(report)
    with lines.open("w", encoding="utf-8") as file:
        for prediction in predictions:
            file.write(f"{spell(prediction)}\n")
    return report, lines
