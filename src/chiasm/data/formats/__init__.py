"""The forms that conversations come in, one file a form."""

from chiasm.data.formats.captioning import CAPTIONING
from chiasm.data.formats.coco import COCO_INSTANCES, COCO_PANOPTIC
from chiasm.data.formats.listed import LISTED
from chiasm.data.formats.llava import LLAVA
from chiasm.data.formats.medical import MEDICAL
from chiasm.data.formats.messages import MESSAGES
from chiasm.data.formats.narratives import NARRATIVES
from chiasm.data.formats.nlvr import NLVR
from chiasm.data.formats.pairs import PAIRS
from chiasm.data.formats.reader import Format
from chiasm.data.formats.refcoco import REFCOCO
from chiasm.data.formats.videos import VIDEOS
from chiasm.data.formats.vqa import VQA
from chiasm.data.formats.whole import WholeFormat

FORMATS: dict[str, Format] = {
    "messages": MESSAGES,
    "llava": LLAVA,
    "pairs": PAIRS,
    "vqa": VQA,
    "captioning": CAPTIONING,
    "medical": MEDICAL,
}
"""Name to format."""

WHOLE_FILES: dict[str, WholeFormat] = {
    "nlvr": NLVR,
    "phrases": LISTED,
    "refcoco": REFCOCO,
    "narratives": NARRATIVES,
    "coco_instances": COCO_INSTANCES,
    "coco_panoptic": COCO_PANOPTIC,
    "videos": VIDEOS,
}
"""Name to format, for those in which a record alone is no sample."""

AUTO = "auto"
"""Stands for the format that the records' structure shows."""
