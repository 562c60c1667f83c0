"""The forms that conversations come in, one file a form."""

from chiasm.data.formats.captioning import CAPTIONING
from chiasm.data.formats.llava import LLAVA
from chiasm.data.formats.medical import MEDICAL
from chiasm.data.formats.messages import MESSAGES
from chiasm.data.formats.reader import Format
from chiasm.data.formats.vqa import VQA

FORMATS: dict[str, Format] = {
    "messages": MESSAGES,
    "llava": LLAVA,
    "vqa": VQA,
    "captioning": CAPTIONING,
    "medical": MEDICAL,
}
"""Name to format."""

AUTO = "auto"
"""Stands for the format that the records' structure shows."""
