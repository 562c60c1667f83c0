"""A report on disk: the numbers, and beside them one line a prediction."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any


def predictions_path(report: Path) -> Path:
    """Return where the predictions of a report lie: `NAME.predictions.jsonl` beside it."""
    return report.with_name(f"{report.stem}.predictions.jsonl")


def page_path(report: Path) -> Path:
    """Return where the page of a report lies: `NAME.html` beside it."""
    return report.with_suffix(".html")


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
    text = json.dumps(document, indent=2, ensure_ascii=False, allow_nan=False)
    report.write_text(f"{text}\n", encoding="utf-8")
    lines = predictions_path(report)
    with lines.open("w", encoding="utf-8") as file:
        for prediction in predictions:
            file.write(json.dumps(prediction, ensure_ascii=False, allow_nan=False) + "\n")
    return report, lines
