"""A sample as the model sees it, as a page and as a picture."""

from __future__ import annotations

import base64
import io
import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageColor

from chiasm.core.errors import DataError, InputError
from chiasm.core.grid import ImageGeometry
from chiasm.core.samples import Sample, Segment, Turn
from chiasm.data.masks import ArrayMask
from chiasm.data.phrases import Said, naming_turns
from chiasm.data.prompts import Prompter
from chiasm.data.show import GRID, MASKS, View, draw_cells, to_html, to_picture, view, write_view
from chiasm.language.host import Host
from tests.tiny import TINY_HOSTS, picture, tiny_llava, tiny_qwen2_5_vl
from tests.unit.data.test_prompts import BARE


@pytest.fixture(scope="module")
def host() -> Host:
    return tiny_qwen2_5_vl()


def dialogue(question: str = "What?", answer: str = "Red.", images: int = 2) -> Sample:
    turns = (
        Turn("user", (*range(images), question)),
        Turn("assistant", ("unscored",)),
        Turn("user", ("And?",)),
        Turn("assistant", (answer,), True),
    )
    pictures = tuple(picture(61 + 20 * i, 83) for i in range(images))
    return Sample("s1", turns, pictures, origin="data.jsonl:7")


def seen(host: Host, sample: Sample) -> View:
    return view(sample, Prompter(host.tokenizer, host.image_token), host.preparer)


class Spans(HTMLParser):
    """Collects the text of each class, and every tag."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.texts: list[tuple[str, str]] = []
        self._class = ""
        self._in_text = False
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self._in_text = self._in_text or tag == "pre"
        self._class = dict(attrs).get("class") or ""

    def handle_data(self, data: str) -> None:
        if self._in_text and self._class:
            self.texts.append((self._class, data))

    def handle_endtag(self, tag: str) -> None:
        self._class = ""
        self._in_text = self._in_text and tag != "pre"


@pytest.mark.parametrize("name", sorted(TINY_HOSTS))
def test_the_pieces_are_the_rendered_text(name: str) -> None:
    host = TINY_HOSTS[name]()
    sample = dialogue()
    shown = seen(host, sample)
    prompter = Prompter(host.tokenizer, host.image_token)
    counts = host.preparer.prepare(list(sample.images)).token_counts
    prompt = prompter.render(sample, counts)
    marks = [piece.text for piece in shown.pieces if piece.kind == "image"]
    assert marks == [f"<image: {count} tokens>" for count in counts]
    assert sum(piece.tokens for piece in shown.pieces) == len(prompt) == shown.tokens
    text = "".join(
        host.image_token if piece.kind == "image" else piece.text for piece in shown.pieces
    )
    assert text == prompt.text
    supervised = [piece for piece in shown.pieces if piece.kind == "supervised"]
    assert [piece.text for piece in supervised] == ["Red.<|im_end|>"]
    assert supervised[0].tokens == prompt.supervised_tokens == shown.supervised


def test_tokens_that_no_template_writes_are_shown_too() -> None:
    host = tiny_llava()
    host.tokenizer.chat_template = BARE
    shown = seen(host, dialogue())
    assert [p.text for p in shown.pieces if p.kind == "supervised"] == [" Red.<|im_end|>"]


def test_a_question_is_shown_up_to_where_the_model_answers(host: Host) -> None:
    shown = seen(host, Sample("q", (Turn("user", ("What?",)),)))
    assert shown.pieces[-1].text.endswith("assistant\n")
    assert shown.supervised == 0


def test_the_page_holds_text_as_text(host: Host) -> None:
    evil = "<script>alert('&amp;')</script><b>\"x\"</b>"
    sample = dialogue(question=evil, answer=evil)
    sample = Sample("<script>id</script>", sample.turns, sample.images, origin="<i>.jsonl:1")
    page = to_html(seen(host, sample))
    parsed = Spans(page)
    assert not {"script", "b", "i"} & set(parsed.tags)
    kinds = {kind: "".join(t for k, t in parsed.texts if k == kind) for kind, _ in parsed.texts}
    assert evil in kinds["given"]
    assert kinds["supervised"] == f"{evil}<|im_end|>"
    assert "image: 24 tokens" in kinds["image"]
    assert not re.search(r"(src|href)=\"(?!data:)", page), "the page loads something from outside"


def test_the_page_holds_each_image_with_its_grid(host: Host) -> None:
    page = to_html(seen(host, dialogue()))
    codes = re.findall(r"data:image/png;base64,([^\"]+)", page)
    assert len(codes) == 2
    for code in codes:
        image = np.asarray(Image.open(io.BytesIO(base64.b64decode(code))))
        assert (image == GRID).all(-1).any()


def test_cells_are_drawn_where_the_geometry_says() -> None:
    image = Image.new("RGB", (60, 40), "white")
    geometry = ImageGeometry.from_resize((40, 60), (28, 42), (14, 14))
    drawn = np.asarray(draw_cells(image, geometry))
    red = (drawn == GRID).all(-1)
    scale = drawn.shape[1] / 60
    assert drawn.shape[0] == pytest.approx(40 * scale, abs=1)
    for x in (20, 40):
        assert red[:, round(x * scale)].mean() > 0.9
    assert red[round(20 * scale)].mean() > 0.9
    assert not red[round(10 * scale), round(10 * scale)]


def test_cells_on_padding_extend_the_picture() -> None:
    image = Image.new("RGB", (60, 20), "white")
    # A square of 3 x 3 cells over a flat image: a third above and a third below lie on padding.
    geometry = ImageGeometry(20, 60, 1.0, 1.0, 0.0, 20.0, 20.0, 20.0, 3, 3)
    drawn = draw_cells(image, geometry)
    assert drawn.width == drawn.height
    grey, white = drawn.getpixel((drawn.width // 6, 8)), drawn.getpixel((15, drawn.height // 2))
    assert grey == (128, 128, 128)
    assert white == (255, 255, 255)


def test_a_large_image_is_made_smaller_for_showing() -> None:
    geometry = ImageGeometry.from_resize((100, 5000), (14, 140), (14, 14))
    assert draw_cells(Image.new("RGB", (5000, 100)), geometry).width <= 900


def test_files_follow_their_suffix(host: Host, tmp_path: Path) -> None:
    shown = seen(host, dialogue(answer="Käse 🧀 " * 60))
    write_view(shown, tmp_path / "new" / "a.html")
    assert "Käse 🧀" in (tmp_path / "new" / "a.html").read_text(encoding="utf-8")
    write_view(shown, tmp_path / "a.PNG")
    with Image.open(tmp_path / "a.PNG") as image:
        assert image.size == to_picture(shown).size
    with pytest.raises(InputError, match=r"'\.pdf'; allowed: \.html, \.png"):
        write_view(shown, tmp_path / "a.pdf")


def test_the_picture_colours_what_is_supervised(host: Host) -> None:
    def greenish(answer: str) -> int:
        pixels = np.asarray(to_picture(seen(host, dialogue(answer=answer, images=0))))
        return int((pixels == (0xDF, 0xF5, 0xE3)).all(-1).sum())

    assert greenish("a long answer in many words") > greenish("short") > 0


def test_a_sample_of_text_alone_is_shown(host: Host) -> None:
    shown = seen(host, dialogue(images=0))
    assert "<img" not in to_html(shown)
    assert to_picture(shown).width > 100


def pointing() -> Sample:
    """A grey picture; one phrase means its left half, another is not known."""
    grey = Image.new("RGB", (84, 56), (100, 100, 100))
    left = np.zeros((56, 84), bool)
    left[:, :42] = True
    said = [Said("the <left> half", ArrayMask(left), "a"), Said("nobody", None, "b")]
    turns, phrases = naming_turns(said, "Describe it.")
    return Sample("s1", turns, (grey,), phrases=phrases)


def test_masks_lie_over_the_image_and_phrases_are_named(host: Host) -> None:
    shown = seen(host, pointing())
    assert [(phrase.share, phrase.color) for phrase in shown.phrases] == [
        (0.5, MASKS[0]),
        (None, MASKS[1]),
    ]
    assert all(phrase.tokens > 0 for phrase in shown.phrases)
    pixels = np.asarray(shown.images[0])
    scale = pixels.shape[1] / 84
    tint = (np.array(ImageColor.getrgb(MASKS[0])) + 100) // 2
    inside = pixels[int(2.5 * scale), int(1.5 * scale)]
    outside = pixels[int(2.5 * scale), int(82.5 * scale)]
    assert np.abs(inside.astype(int) - tint).max() <= 1
    assert outside.tolist() == [100, 100, 100]
    page = to_html(shown)
    assert f"the &lt;left&gt; half: {shown.phrases[0].tokens} tokens, 50.0% of the image" in page
    assert f"border-left: 1em solid {MASKS[1]}" in page and "tokens, no mask" in page
    drawn = np.asarray(to_picture(shown)).reshape(-1, 3)
    for color in MASKS[:2]:
        assert (drawn == ImageColor.getrgb(color)).all(1).sum() > 100


def test_a_broken_mask_is_named_when_shown(host: Host) -> None:
    sample = pointing()
    phrase = replace(sample.phrases[0], mask=ArrayMask(np.ones((56, 83), bool)))
    with pytest.raises(DataError, match=r"phrase a 'the <left> half': mask of 56 x 83 pixels"):
        seen(host, replace(sample, phrases=(phrase,)))


def test_a_video_is_shown_beside_the_images_with_what_happens_in_it(host: Host) -> None:
    frames = np.zeros((7, 30, 44, 3), np.uint8)
    turns = (Turn("user", ("What happens?",)), Turn("assistant", ("A walk.",), supervised=True))
    sample = Sample("s1", turns, video=frames, segments=(Segment(0.0, 0.1, "walking"),))
    shown = seen(host, sample)
    ((told, sheet),) = shown.named_images
    assert told == "video: 7 frames, 0.28 s, 30 x 44 pixels"
    assert sheet.width > 800
    assert told in to_html(shown)
    both = seen(host, replace(pointing(), video=frames))
    assert [name for name, _ in both.named_images] == ["image 0", told]
