r"""Pairs: a picture in which something is partly hidden, and a reconstruction of it.

    [{"image_orig": "a.png", "image_recon": "a-rebuilt.png",
      "conversations": [{"from": "human", "value": "<image>\nWhat's the object in the hand?"},
                        {"from": "gpt", "value": "The object is banana."}],
      "occlusion_mask": "a-mask.png", "image_target": "a-clear.png",
      "box_orig": [12, 20, 60, 71], "box_recon": [8, 8, 52, 58]}]

The conversation is LLaVA's; its one `<image>` marker stands for `image_orig`. Everything below it
is optional:

- `occlusion_mask`: a PNG of the size of `image_orig` in which white is hidden and black is not
  (every value but 0 counts as white), or COCO run lengths.
- `image_target`: `image_orig` as it is without the occluder, of the same size.
- `box_orig`, `box_recon`: the box of the whole thing, hidden parts included, in each picture:
  [left, top, right, bottom] in its pixels.
- `truth`: an object with whatever else is known, which no model is given, for `Sample.truth`: the
  hidden share under `fraction`, and as COCO run lengths under `whole` and `hidden` the pixels of
  the thing and those of them that are hidden.

Any other field is kept unread, as in every format (see `extras`), so that a misspelt one is no
fault: `chiasm data check` names each of them, with the field that it is near to.

The pictures, mask and boxes become `Sample.pair`. A file holds one object, a list of them, or one
a line.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from chiasm.core.errors import InputError, MediaError
from chiasm.core.run_length import decode_run_length
from chiasm.core.samples import Box, ImageSource, MaskSource, Pair
from chiasm.data.conversation import shown
from chiasm.data.formats import llava
from chiasm.data.formats.extras import is_box
from chiasm.data.formats.reader import IMAGE_FIELDS, Format, RecordReader
from chiasm.data.masks import PngMask, RunLengthMask
from chiasm.data.media import local_path

ORIGINAL, RECONSTRUCTION, TARGET = "image_orig", "image_recon", "image_target"
MASK, BOX, RECONSTRUCTION_BOX = "occlusion_mask", "box_orig", "box_recon"
TRUTH = "truth"
TRUE_MASKS = ("whole", "hidden")
"""Keys of the truth that hold masks."""


def claims(fields: Mapping[str, Any]) -> bool:
    """Whether a record has `image_orig` or `image_recon`."""
    return fields.get(ORIGINAL) is not None or fields.get(RECONSTRUCTION) is not None


def read(reader: RecordReader) -> None:
    """Read the pair and the turns of a record."""
    named = reader.fields.get(ORIGINAL) is not None
    if not reader.declared_images((ORIGINAL, *IMAGE_FIELDS) if named else (ORIGINAL,)):
        reader.fault(ORIGINAL, "missing", "a pair has the picture with the hidden thing")
        # One fault is enough: the marker in the text stands for what is missing.
        reader.add_image(b"", ORIGINAL)
    elif len(reader.media) != 1:
        reader.fault(ORIGINAL, f"{len(reader.media)} images", "a pair has one, and one image_recon")
        del reader.media[1:]
    reconstruction = _beside(reader, RECONSTRUCTION)
    if reconstruction is None:
        reader.fault(RECONSTRUCTION, "missing", "a pair has a reconstruction")
    reader.pair = Pair(
        reconstruction=b"" if reconstruction is None else reconstruction,
        hidden=_mask(reader),
        image_box=_box(reader, BOX),
        reconstruction_box=_box(reader, RECONSTRUCTION_BOX),
        target=_beside(reader, TARGET),
    )
    reader.truth = _truth(reader)
    llava.read_turns(reader)


def _truth(reader: RecordReader) -> dict[str, Any]:
    value = reader.fields.get(TRUTH)
    if value is None:
        return {}
    if not isinstance(value, Mapping):
        reader.fault(TRUTH, shown(value), "an object with what is known: {name: value}")
        return {}
    truth = dict(value)
    for key in TRUE_MASKS:
        if key in truth:
            place = f"{TRUTH}.{key}"
            try:
                truth[key] = decode_run_length(truth[key], place)
            except (InputError, TypeError) as error:
                words = str(error).removeprefix(f"{place}: ")
                reader.fault(place, words, "COCO run lengths: size [height, width] and counts")
    return truth


def _beside(reader: RecordReader, field: str) -> ImageSource | None:
    value = reader.fields.get(field)
    return None if value is None else reader.add_beside(value, field)


def _mask(reader: RecordReader) -> MaskSource | None:
    value = reader.fields.get(MASK)
    if value is None:
        return None
    if isinstance(value, Mapping) and {"size", "counts"} <= set(value):
        return RunLengthMask(value, MASK)
    if isinstance(value, str) and value.strip() and "\0" not in value:
        try:
            return PngMask(reader.options.media_root / local_path(value))
        except MediaError as error:
            reader.fault(MASK, str(error).rstrip("."), "allowed: the path of a PNG")
            return None
    allowed = "a mask is the path of a PNG, white where hidden, or run lengths (size and counts)"
    reader.fault(MASK, shown(value), allowed)
    return None


def _box(reader: RecordReader, field: str) -> Box | None:
    value = reader.fields.get(field)
    if value is None:
        return None
    if not is_box(value):
        allowed = "a box is [left, top, right, bottom] in pixels, with left < right"
        reader.fault(field, shown(value), f"{allowed} and top < bottom")
        return None
    left, top, right, bottom = map(float, value)
    return left, top, right, bottom


PAIRS = Format(
    claims=claims,
    read=read,
    form='{"image_orig": ..., "image_recon": ..., "conversations": [{"from": "human", ...}, ...]}',
    consumes=(
        "conversations",
        ORIGINAL,
        RECONSTRUCTION,
        TARGET,
        MASK,
        BOX,
        RECONSTRUCTION_BOX,
        TRUTH,
    ),
)
