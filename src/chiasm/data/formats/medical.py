"""Questions about medical images: the form of `vqa`, in the group "medical" unless a record says.

Nothing here makes a model fit for diagnosis. The form is kept apart so that reports can be.
It is never chosen automatically, because nothing in the records tells it from `vqa`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from chiasm.data.formats import vqa
from chiasm.data.formats.reader import Format, RecordReader

GROUP = "medical"


def claims(fields: Mapping[str, Any]) -> bool:
    """Never: the form has to be named."""
    return False


def read(reader: RecordReader) -> None:
    """Read the turns of a record."""
    vqa.read(reader)
    reader.options = replace(reader.options, group=reader.options.group or GROUP)


MEDICAL = Format(claims=claims, read=read, form=vqa.FORM, consumes=("conversations",))
