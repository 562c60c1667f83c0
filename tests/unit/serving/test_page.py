"""The page is one file: nothing from outside, a policy that says so, and names for everything."""

from __future__ import annotations

import base64
import hashlib
import re
from html.parser import HTMLParser

from chiasm.serving.page import PAGE, PAGE_POLICY

VOID = {"meta", "link", "input", "hr"}


class Page(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.feed(PAGE)
        assert self.open == []

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attributes)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def test_nothing_comes_from_outside() -> None:
    for tag, attributes in Page().elements:
        for name in ("src", "href", "action", "srcset"):
            assert attributes.get(name) in (None, "data:,"), (tag, attributes)
        assert not any(name.startswith("on") or name == "style" for name in attributes), tag
    assert not re.search(r"https?://|@import|url\(", PAGE)


def test_the_policy_lets_the_pages_own_script_run() -> None:
    for tag in ("script", "style"):
        content = PAGE.split(f"<{tag}>")[1].split(f"</{tag}>")[0]
        digest = base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()
        assert f"{tag}-src 'sha256-{digest}'" in PAGE_POLICY
    assert "default-src 'none'" in PAGE_POLICY
    assert "unsafe" not in PAGE_POLICY


def test_everything_has_a_name() -> None:
    page = Page()
    identifiers = [found["id"] for _, found in page.elements if found.get("id")]
    assert len(identifiers) == len(set(identifiers))
    labelled = {found.get("for") for tag, found in page.elements if tag == "label"}
    for tag, found in page.elements:
        if tag in ("input", "textarea"):
            assert found["id"] in labelled
        if tag == "canvas":
            assert found["role"] == "img"
            assert found["aria-label"]
        for reference in ("aria-labelledby", "aria-describedby", "for"):
            assert found.get(reference) in (None, *identifiers)
    asked = set(re.findall(r'find\("([^"]+)"\)', PAGE))
    assert asked <= set(identifiers)
    assert any(found.get("role") == "alert" for _, found in page.elements)
    assert ("html", {"lang": "en"}) in page.elements


def test_the_page_reads_what_the_server_writes() -> None:
    from chiasm.inference.answers import Answer
    from chiasm.models.gate_report import GateReport, ImageGate

    image = ImageGate({"host": 1.0}, {"host": 2.0}, {"host": ((1.0,),)})
    report = GateReport({"host": 1.0}, "host", 1.0, (image,))
    document = Answer("x", report=report, views=((0.0, 0.0, 1.0, 1.0),)).gate_document()
    used = set(re.findall(r"gate\.(\w+)", PAGE))
    assert used == {"gate", "dominant", "confidence", "images"}
    assert used <= set(document)
    (names,) = re.findall(r"const \{ ([\w, ]+) \} = gate\.images\[0\]", PAGE)
    assert set(names.split(", ")) <= set(document["images"][0])
