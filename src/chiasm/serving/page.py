"""The page, and a policy that lets it run its own script and nothing else."""

from __future__ import annotations

import base64
import hashlib
import re
from importlib.resources import files

PAGE = (files("chiasm.serving") / "page.html").read_text(encoding="utf-8")
"""One file without outside resources."""


def _hashes(tag: str) -> str:
    """Return the sources of a tag's contents as the policy names them."""
    contents = re.findall(rf"<{tag}>(.*?)</{tag}>", PAGE, flags=re.DOTALL)
    digests = (hashlib.sha256(content.encode()).digest() for content in contents)
    return " ".join(f"'sha256-{base64.b64encode(digest).decode()}'" for digest in digests)


PAGE_POLICY = "; ".join(
    (
        "default-src 'none'",
        f"script-src {_hashes('script')}",
        f"style-src {_hashes('style')}",
        "img-src blob: data:",
        "connect-src 'self'",
        "base-uri 'none'",
        "form-action 'none'",
        "frame-ancestors 'none'",
    )
)
"""Content-Security-Policy of the page."""
