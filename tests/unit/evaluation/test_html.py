import base64
import io
import json
import re
from dataclasses import replace
from html.parser import HTMLParser

import numpy as np
import pytest
from PIL import Image

from chiasm.core.grid import ImageGeometry
from chiasm.evaluation.findings import headline, sentences
from chiasm.evaluation.gallery import (
    OVERLAY,
    choose_examples,
    colours,
    overlay_map,
    sort_into_cases,
)
from chiasm.evaluation.gate_analysis import analyse
from chiasm.evaluation.html import render_page, save_analysis
from tests.unit.evaluation.eyes import Eyes, sample

GROUPS = ("x", "y", "z")
SAMPLES = [sample(number, group=GROUPS[number % 3]) for number in range(13)]
VOID = {"meta", "img", "br", "link", "line", "rect", "circle"}


class Page(HTMLParser):
    """Checks that tags are balanced and collects what the tests look at."""

    def __init__(self, text):
        super().__init__()
        self.open, self.tags, self.text, self.addresses = [], [], [], []
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        self.addresses += [value for name, value in attributes if name in ("src", "href")]
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.tags.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text.append(data)

    @property
    def words(self):
        return " ".join(" ".join(self.text).split())


@pytest.fixture(scope="module")
def analysis():
    return analyse(Eyes(), SAMPLES, control=Eyes(blind=True), data="scenes.jsonl")


def test_page_is_whole_self_contained_and_tells_the_numbers(analysis, tmp_path):
    page, numbers = save_analysis(analysis, tmp_path / "deep" / "analysis")
    text = page.read_text(encoding="utf-8")
    read = Page(text)
    assert all(address.startswith("data:image/png;base64,") for address in read.addresses)
    assert not re.search(r"https?:|@import|url\(", text)
    assert headline(analysis) in read.words
    for setting in analysis.settings:
        assert f"{setting.accuracy.mean * 100:.1f}%" in read.words
    assert "weight of dino" in read.words
    assert "n = 13" in read.words
    assert analysis.context["intervals"] in read.words
    assert "Alarm above 0.95" in read.words and "Alarm below 0.01" in read.words
    document = json.loads(numbers.read_text(encoding="utf-8"))
    assert document["headline"] == headline(analysis)
    assert document["settings"][1]["accuracy"]["mean"] == pytest.approx(
        np.mean(analysis.settings[1].correct)
    )


def test_bars_have_the_length_of_their_numbers(analysis):
    text = render_page(analysis)
    widths = [
        float(width)
        for width in re.findall(r'class="fill [a-z-]+" x="0" y="7" width="([0-9.]+)"', text)
    ]
    expected = [300 * setting.accuracy.mean for setting in analysis.settings]
    assert widths == pytest.approx(expected, abs=0.01)


def test_user_text_is_escaped():
    nasty = '<script>alert("x")</script>'

    class Loud(Eyes):
        def answers(self, samples, force=None, shuffle=False):
            return [nasty for _ in samples]

        def describe(self):
            return {**super().describe(), "prompt": nasty, "model": f"run {nasty}"}

    samples = [
        replace(item, identifier=f"{item.identifier}{nasty}", group=f"g{nasty}")
        for item in SAMPLES[:4]
    ]
    text = render_page(analyse(Loud(), samples, data=nasty))
    assert nasty not in text
    assert "&lt;script&gt;" in text
    read = Page(text)
    assert "script" not in read.tags
    assert nasty in read.words


def test_one_sample_and_no_gate_give_whole_pages():
    one = Page(render_page(analyse(Eyes(weight=0.97), SAMPLES[:1])))
    assert "2 questions about 1 image" in one.words
    assert "not told" in one.words
    assert "! dominance" in one.words
    # One group says the same as all images.
    assert one.words.count("weight of dino") == 2
    plain = Page(render_page(analyse(Eyes(gated=False), SAMPLES)))
    assert "What the gate does" not in plain.words
    assert "This fusion has no gate" in plain.words
    assert "shuffled" in plain.words


def test_many_groups_are_counted_not_dropped_silently():
    samples = [replace(sample(n), group=f"group {n:02}") for n in range(17)]
    read = Page(render_page(analyse(Eyes(), samples)))
    assert "the 12 largest of 17 groups" in read.words


def test_cases_hold_every_question_once(analysis):
    cases = sort_into_cases(analysis)
    assert sorted(at for case in cases for at in case.members) == list(range(26))
    helped = cases[0]
    assert list(helped.members) == [2 * number for number in range(13) if number & 2]


def test_examples_are_drawn_by_seed_and_show_image_and_map(analysis):
    examples = choose_examples(analysis, seed=1)
    assert examples == choose_examples(analysis, seed=1)
    assert examples != choose_examples(analysis, seed=2)
    cases = {case.name: case.members for case in sort_into_cases(analysis)}
    for example in examples:
        assert example.question in cases[example.case]
        assert [caption.split(":")[0] for caption, _ in example.pictures] == [
            "image",
            "share of dino",
        ]
    first = examples[0]
    data = base64.b64decode(first.pictures[0][1].split(",")[1])
    with Image.open(io.BytesIO(data)) as image:
        assert image.size == (224, 149)


def test_overlay_puts_each_cell_where_its_geometry_says():
    # 40 x 20 pixels seen at half size with 2 resized pixels of padding on the left: cells of 8.
    geometry = ImageGeometry(
        original_height=20,
        original_width=40,
        scale_x=0.5,
        scale_y=0.5,
        offset_x=2.0,
        offset_y=0.0,
        cell_height=5.0,
        cell_width=8.0,
        rows=2,
        columns=2,
    )
    shares = np.array([[0.0, 1.0], [0.5, 0.25]])
    image = Image.new("RGB", (80, 40), (60, 60, 60))
    found = np.asarray(overlay_map(image, shares, geometry)).astype(float)
    grey = 60 * (1 - OVERLAY)

    def expected(share):
        return (grey + colours(np.array(share)) * OVERLAY).round()

    # Cell (0, 0) covers resized x in [0, 8), so original x up to 12, picture x up to 24.
    assert found[0, 23].tolist() == expected(0.0).tolist()
    assert found[0, 24].tolist() == expected(1.0).tolist()
    assert found[19, 55].tolist() == expected(1.0).tolist()
    assert found[20, 0].tolist() == expected(0.5).tolist()
    # Beyond resized x = 16 (picture x = 56) no cell looks: plain grey.
    assert found[0, 56].tolist() == [60.0] * 3


def test_headline_claims_gain_only_against_a_control(analysis):
    assert headline(analysis).startswith("Seeing with dino brings ")
    same = analyse(Eyes(), SAMPLES, control=Eyes())
    assert headline(same).startswith("No gain from dino is shown: 100.0%")
    worse = analyse(Eyes(blind=True), SAMPLES, control=Eyes())
    assert headline(worse).startswith("Seeing with dino costs ")


def test_headline_speaks_of_reliance_without_a_control():
    found = analyse(Eyes(), SAMPLES)
    assert headline(found).startswith("The model relies on dino: 100.0%")
    blind = analyse(Eyes(blind=True), SAMPLES)
    assert headline(blind).startswith("The model is not shown to rely on dino")

    class Harmed(Eyes):
        def answers(self, samples, force=None, shuffle=False):
            right = super().answers(samples)
            return right if force == "host" else ["nonsense"] * len(right)

    assert headline(analyse(Harmed(), SAMPLES)).startswith("The model does better without dino")


def test_sentences_carry_intervals_and_the_baseline(analysis):
    text = " ".join(sentences(analysis))
    assert "Always giving the most frequent answer of each kind scores 53.8%" in text
    assert "Neither number is importance" in text
    assert "With host only the model scores" in text
    assert text.count("interval") == 3
