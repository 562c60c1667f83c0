"""Writes an analysis as one HTML page, without outside resources, and as JSON."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from jinja2 import Environment, FileSystemLoader, StrictUndefined

from chiasm.core.spelling import spell
from chiasm.evaluation.findings import headline, sentences
from chiasm.evaluation.gallery import (
    EXAMPLES_PER_CASE,
    choose_examples,
    scale_uri,
    sort_into_cases,
)
from chiasm.evaluation.gate_analysis import GateAnalysis
from chiasm.evaluation.gate_statistics import HISTOGRAM_BINS, contribution_shares
from chiasm.evaluation.saving import write_page

MAXIMUM_DOTS = 800
"""Images drawn in a scatter plot; more would hide each other."""

MAXIMUM_GROUPS = 12
"""Groups with a histogram of their own: the largest ones; the JSON file has all."""

STREAM_COLOURS = ("var(--host)", "var(--extra)", "#7a5ea8", "#3f8f86", "#b0486d", "#7d7a2c")


def save_analysis(analysis: GateAnalysis, folder: Path | str, seed: int = 0) -> tuple[Path, Path]:
    """Write `report.html` and `analysis.json` into a folder.

    Args:
        analysis: What was found.
        folder: Made where it does not exist.
        seed: Seed of the examples drawn.

    Returns:
        The paths of the page and of the JSON file.
    """
    target = Path(folder)
    target.mkdir(parents=True, exist_ok=True)
    page, data = target / "report.html", target / "analysis.json"
    write_page(page, render_page(analysis, seed))
    document = {
        "headline": headline(analysis),
        "findings": sentences(analysis),
        **analysis.to_json(),
    }
    data.write_text(f"{spell(document, indent=1)}\n", encoding="utf-8")
    return page, data


def render_page(analysis: GateAnalysis, seed: int = 0) -> str:
    """Return the page as text; all texts from data and model are escaped."""
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent / "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=False,
    )
    environment.filters.update(percent=_percent, points=_points, number=_number)
    title = f"Gate analysis: {analysis.context['model'] or 'model'}"
    return environment.get_template("gate_report.html.j2").render(
        title=title,
        headline=headline(analysis),
        sentences=sentences(analysis),
        context=analysis.context,
        settings=analysis.settings,
        majority=analysis.majority,
        reach=_reach(analysis),
        groups=list(analysis.settings[0].by_group),
        streams=analysis.streams,
        stream_colour=lambda place: STREAM_COLOURS[place % len(STREAM_COLOURS)],
        bins=HISTOGRAM_BINS,
        questions=analysis.questions,
        cases=sort_into_cases(analysis),
        examples=choose_examples(analysis, seed),
        per_case=EXAMPLES_PER_CASE,
        scale_uri=scale_uri(),
        facts=page_facts(analysis.context),
        **_gate_values(analysis, seed),
    )


def _gate_values(analysis: GateAnalysis, seed: int) -> dict[str, Any]:
    """Return what the section about the gate draws; nothing for a fusion without gate."""
    gate, reading = analysis.gate, analysis.reading
    notes = list(analysis.notes)
    if gate is None or reading is None:
        return {"gate": None, "histograms": (), "tallest": {}, "clouds": {}, "notes": notes}
    sizes = {item.group: item.mean.count for item in gate.histograms if item.group is not None}
    shown = sorted(sizes, key=lambda group: (-sizes[group], group))[:MAXIMUM_GROUPS]
    if len(shown) < len(sizes):
        notes.append(
            f"Histograms: the {len(shown)} largest of {len(sizes)} groups; analysis.json has all."
        )
    # One group says the same as all images together.
    kept = {None} if len(sizes) == 1 else {None, *shown}
    histograms = [item for item in gate.histograms if item.group in kept]
    tallest = {
        stream: _next_tenth(
            max(max(item.counts) / item.mean.count for item in histograms if item.stream == stream)
        )
        for stream in analysis.streams
    }
    drawn = np.arange(gate.images)
    if gate.images > MAXIMUM_DOTS:
        random = np.random.default_rng(seed)
        drawn = np.sort(random.choice(gate.images, MAXIMUM_DOTS, replace=False))
    shares = contribution_shares(reading.contributions)
    clouds = {
        stream: list(
            zip(reading.weights[drawn, place].tolist(), shares[drawn, place].tolist(), strict=True)
        )
        for place, stream in enumerate(analysis.streams)
    }
    return {
        "gate": gate,
        "histograms": histograms,
        "tallest": tallest,
        "clouds": clouds,
        "notes": notes,
    }


def _reach(analysis: GateAnalysis) -> float:
    """Return the end of the difference axis: a multiple of 5 points that holds all intervals."""
    ends = [
        max(abs(setting.difference.low), abs(setting.difference.high))
        for setting in analysis.settings
        if setting.difference is not None
    ]
    return max(0.05, math.ceil(max(ends, default=0.0) * 20 - 1e-9) / 20)


def _next_tenth(value: float) -> float:
    """Return the next multiple of 0.1, so that the axis and its middle are round numbers."""
    return math.ceil(value * 10 - 1e-9) / 10


def page_facts(context: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Return what shaped the numbers, as pairs of texts for a page."""
    facts = []
    for name, value in context.items():
        if isinstance(value, Mapping):
            text = ", ".join(f"{key} {inner}" for key, inner in value.items()) or "not given"
        else:
            text = "not given" if value in (None, "") else str(value)
        facts.append((name.replace("_", " "), text))
    return facts


def _percent(value: float, places: int = 1) -> str:
    return f"{value * 100:.{places}f}%"


def _points(value: float) -> str:
    return f"{value * 100:+.1f}".replace("-", "\N{MINUS SIGN}")


def _number(value: float) -> str:
    return f"{value:.2f}"
