"""The page of an evaluation of masks: whole, safe, and with pictures of what was found."""

from __future__ import annotations

import base64
import dataclasses
import io
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from chiasm.evaluation.bootstrap import Bootstrap
from chiasm.evaluation.grounding import GroundingOptions, evaluate_masks
from chiasm.evaluation.grounding_page import AT_RANDOM, WEAKEST, render_page, save_page
from tests.unit.evaluation.painters import Painter, painted

SAMPLES = [painted(number) for number in range(11)]
NASTY = "<script>alert('&')</script>"


@pytest.fixture(scope="module")
def report() -> Any:
    options = GroundingOptions(bootstrap=Bootstrap(resamples=20), data=NASTY)
    return evaluate_masks(Painter(), SAMPLES, options)


class Balance(HTMLParser):
    """Counts what is open; the page must close what it opens."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.sources: list[str] = []

    def handle_starttag(self, tag: str, attributes: Any) -> None:
        self.sources += [value for name, value in attributes if name in ("src", "href")]
        if tag not in ("meta", "img", "line", "rect"):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if tag not in ("line", "rect"):
            assert self.open.pop() == tag


def test_the_page_is_whole_and_brings_its_pictures(report: Any) -> None:
    page = render_page(report, SAMPLES, seed=3)
    balance = Balance()
    balance.feed(page)
    assert balance.open == []
    assert len(balance.sources) == 3 * (AT_RANDOM + WEAKEST)
    assert all(source.startswith("data:image/png;base64,") for source in balance.sources)
    assert "http" not in page and "url(" not in page


def test_texts_are_escaped(report: Any) -> None:
    scores = [dataclasses.replace(score, phrase=NASTY) for score in report.scores]
    page = render_page(dataclasses.replace(report, scores=scores), SAMPLES)
    assert "<script" not in page
    assert page.count("&lt;script&gt;") >= 1 + AT_RANDOM + WEAKEST


def test_numbers_stand_on_the_page(report: Any) -> None:
    page = render_page(report, SAMPLES)
    numbers = report.numbers()
    (headline,) = re.findall("<h1>(.*?)</h1>", page)
    best = max(numbers["constant.mean_iou"], numbers["centre_box.mean_iou"])
    assert headline == (
        f"Mean IoU {numbers['mean_iou']:.3f} (refined); its cells allow "
        f"{numbers['refined ceiling.mean_iou']:.3f}; without looking {best:.3f}"
    )
    assert f"<td>{numbers['coarse.mean_iou']:.3f}<span>" in page
    for split in ("things", "stuff", "singular", "plural", "left", "right"):
        assert f"<td>{split}</td>" in page
    heights = [int(found) for found in re.findall(r"<title>(\d+)</title>", page)]
    assert sum(heights) == len(report.scores)


def test_the_weakest_are_the_weakest(report: Any) -> None:
    page = render_page(report, SAMPLES)
    shown = re.findall(r"refined: IoU (\d\.\d\d)</figcaption>", page)[-WEAKEST:]
    lowest = sorted(score.overlaps["refined"].iou for score in report.scores)[:WEAKEST]
    assert shown == [f"{iou:.2f}" for iou in lowest]


def test_pictures_show_mask_and_truth(report: Any) -> None:
    page = render_page(report, SAMPLES[:], seed=1)
    uris = re.findall(r'src="data:image/png;base64,([^"]+)"', page)
    plain, coarse = (
        np.asarray(Image.open(io.BytesIO(base64.b64decode(uri))).convert("RGB")).astype(int)
        for uri in uris[:2]
    )
    assert plain.shape == coarse.shape and max(plain.shape[:2]) == 288
    changed = (plain != coarse).any(-1)
    assert 0.05 < changed.mean() < 0.7
    assert ((coarse == 255).all(-1) & changed).any()


def test_heads_alone_have_a_page_too(tmp_path: Path) -> None:
    options = GroundingOptions(compared=False, bootstrap=Bootstrap(resamples=2))
    report = evaluate_masks(Painter(heads=("coarse",)), SAMPLES[:2], options)
    path = save_page(report, SAMPLES, tmp_path / "deep" / "page.html")
    page = path.read_text(encoding="utf-8")
    assert re.findall("<h1>(.*?)</h1>", page)[0].endswith("(coarse)")
    assert "Baselines" not in page
