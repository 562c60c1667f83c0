"""Everything that is wrong with a dataset file, before any training starts."""

from __future__ import annotations

import difflib
import statistics
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from chiasm.core.errors import ChiasmError, DataError, FaultListError, InputError, MediaError
from chiasm.core.protocols import ImagePreparer
from chiasm.core.samples import Sample
from chiasm.data.check_videos import VideoInspector
from chiasm.data.conversation import Fault, shown
from chiasm.data.formats import AUTO, FORMATS, WHOLE_FILES
from chiasm.data.formats.extras import EXTRAS
from chiasm.data.formats.grounding import GroundingOptions
from chiasm.data.formats.reader import IMAGE_FIELDS, Media, ReadOptions
from chiasm.data.locating import phrase_faults, phrase_text
from chiasm.data.masks import read_mask
from chiasm.data.media import load_image
from chiasm.data.pair_check import pair_faults
from chiasm.data.prompts import Prompter
from chiasm.data.reading import Entry, read_file


@dataclass(frozen=True)
class OtherField:
    """A field of records that nothing reads.

    Attributes:
        samples: How many samples have it.
        near: The field of the format whose name is nearest, which it may be a misspelling of; empty
            where none is near.
    """

    samples: int
    near: str = ""


Progress = Callable[[int, int], None]
"""Called with (records checked, records in all)."""


@dataclass(frozen=True)
class Report:
    """What a check found.

    Attributes:
        path: The file.
        format: The format it was read as; empty when none fits.
        faults: Everything wrong, in the order of the file.
        records: Records read.
        samples: Records that became a sample.
        images: Images that records name.
        distinct_images: Different files or contents among them that could be decoded.
        turns: Turns by role.
        groups: Samples by group.
        lengths: Tokens of each sample that could be rendered; empty without a tokenizer.
        supervised: Supervised tokens, summed.
        phrases: Phrases that mean pixels.
        masks: Those of them whose mask was read and is sound.
        pairs: Samples with a reconstruction.
        dropped: What the format leaves out on purpose, and how often, by reason.
        videos: Samples that name a video.
        distinct_videos: Different videos among them without fault.
        video_seconds: Length of these together.
        other_fields: Fields that are kept and that nothing reads, by name.
    """

    path: str
    format: str
    faults: tuple[Fault, ...]
    records: int
    samples: int
    images: int
    distinct_images: int
    turns: dict[str, int]
    groups: dict[str, int]
    lengths: tuple[int, ...]
    supervised: int
    phrases: int = 0
    masks: int = 0
    pairs: int = 0
    dropped: Mapping[str, int] = field(default_factory=dict)
    videos: int = 0
    distinct_videos: int = 0
    video_seconds: float = 0.0
    other_fields: Mapping[str, OtherField] = field(default_factory=dict)

    @property
    def histogram(self) -> list[tuple[int, int]]:
        """Token lengths as (upper bound, samples up to it), bounds doubling from 32."""
        bounds: Counter[int] = Counter()
        for length in self.lengths:
            bounds[max(32, 1 << (length - 1).bit_length())] += 1
        return sorted(bounds.items())

    def document(self) -> dict[str, Any]:
        """Return the report in plain values, for JSON."""
        return {
            "path": self.path,
            "format": self.format,
            "faults": [
                {
                    "origin": fault.origin,
                    "line": fault.line,
                    "field": fault.field,
                    "value": fault.value,
                    "allowed": fault.allowed,
                }
                for fault in self.faults
            ],
            "records": self.records,
            "samples": self.samples,
            "images": self.images,
            "distinct_images": self.distinct_images,
            "turns": self.turns,
            "groups": self.groups,
            "phrases": self.phrases,
            "masks": self.masks,
            "pairs": self.pairs,
            "dropped": dict(self.dropped),
            "videos": self.videos,
            "distinct_videos": self.distinct_videos,
            "video_seconds": self.video_seconds,
            "other_fields": {name: asdict(one) for name, one in self.other_fields.items()},
            "tokens": self._token_counts() if self.lengths else None,
        }

    def _token_counts(self) -> dict[str, Any]:
        return {
            "least": min(self.lengths),
            "median": statistics.median(self.lengths),
            "most": max(self.lengths),
            "sum": sum(self.lengths),
            "supervised": self.supervised,
            "histogram": [{"up_to": bound, "samples": count} for bound, count in self.histogram],
        }


def check(
    path: Path | str,
    format: str = AUTO,
    *,
    media_root: Path | str | None = None,
    prompter: Prompter | None = None,
    preparer: ImagePreparer | None = None,
    max_length: int | None = None,
    prediction: bool = False,
    grounding: GroundingOptions | None = None,
    progress: Progress | None = None,
) -> Report:
    """Check a dataset file: structure, media, and, with a host, prompts.

    Every image is decoded whole, once for each different file, and every mask, of a phrase or of
    what is hidden, is read and held against its image. Nothing stops at the first fault.

    Args:
        path: JSON, JSONL or Parquet; for some formats a folder or a pickle.
        format: A name in `FORMATS` or `WHOLE_FILES` of `chiasm.data.formats`, or `auto`.
        media_root: Folder that relative media paths start from; by default that of the file.
        prompter: Renders the samples, to find what the chat template refuses and how long they
            are. Needs `preparer`.
        preparer: Prepares the images, to know how many tokens each takes.
        max_length: Most tokens in a sample. Needs `prompter`.
        prediction: The file is to be answered, not learnt from: answers may be missing.
        grounding: How files of phrases and masks are read.
        progress: Called after each record.

    Raises:
        DataError: There is no such file, or its suffix is not known.
        InputError: Arguments that need each other are not given together.
    """
    if (prompter is None) != (preparer is None) or (max_length is not None and prompter is None):
        raise InputError(
            "lengths need a host: give prompter and preparer together, and max_length only with "
            "them (on the command line: --host)"
        )
    root = Path(path).parent if media_root is None else Path(media_root)
    options = ReadOptions(root, grounding=grounding or GroundingOptions(), prediction=prediction)
    reading = read_file(path, format, options)
    inspector = _Inspector(prompter, preparer, max_length, prediction)
    for number, entry in enumerate(reading.entries, 1):
        inspector.inspect(entry)
        if progress is not None:
            progress(number, len(reading.entries))
    samples = reading.samples
    return Report(
        path=str(path),
        format=reading.format,
        faults=tuple(sorted((*reading.faults, *inspector.faults), key=lambda fault: fault.line)),
        records=reading.records,
        samples=len(samples),
        images=sum(len(entry.media) for entry in reading.entries),
        distinct_images=inspector.distinct_images,
        turns=_counts(turn.role for sample in samples for turn in sample.turns),
        groups=_counts(sample.group for sample in samples),
        lengths=tuple(inspector.lengths),
        supervised=inspector.supervised,
        phrases=sum(len(sample.phrases) for sample in samples),
        masks=inspector.masks,
        pairs=sum(sample.pair is not None for sample in samples),
        dropped=reading.dropped,
        videos=inspector.videos.named,
        distinct_videos=inspector.videos.sound,
        video_seconds=inspector.videos.seconds,
        other_fields=_other_fields(samples, reading.format),
    )


def _counts(names: Iterable[str]) -> dict[str, int]:
    return dict(sorted(Counter(names).items()))


def _other_fields(samples: Iterable[Sample], format: str) -> dict[str, OtherField]:
    counts = _counts(name for sample in samples for name in sample.truth.get("fields", ()))
    form = FORMATS.get(format) or WHOLE_FILES.get(format)
    read = (*form.consumes, *EXTRAS, *IMAGE_FIELDS) if form is not None else ()
    return {
        name: OtherField(count, "".join(difflib.get_close_matches(name, read, n=1)))
        for name, count in counts.items()
    }


@dataclass(frozen=True)
class _Decoded:
    """What is known of an image once it was decoded: size, tokens, or why not."""

    width: int = 0
    height: int = 0
    tokens: int = 0
    fault: str = ""


def _teaches(sample: Sample) -> bool:
    """Whether there is a word to learn, or dense labels, phrases or a target, without a word."""
    drawn = sample.pair is not None and sample.pair.target is not None
    wordless = bool(sample.truth.get("cells") or sample.phrases or drawn)
    return wordless or any(turn.supervised for turn in sample.turns)


class _Inspector:
    """Looks at one record after the other, and remembers images it has seen."""

    def __init__(
        self,
        prompter: Prompter | None,
        preparer: ImagePreparer | None,
        max_length: int | None,
        prediction: bool,
    ) -> None:
        self.prompter = prompter
        self.preparer = preparer
        self.max_length = max_length
        self.prediction = prediction
        self.faults: list[Fault] = []
        self.lengths: list[int] = []
        self.supervised = 0
        self.masks = 0
        self.videos = VideoInspector()
        self._seen: dict[Any, _Decoded] = {}

    @property
    def distinct_images(self) -> int:
        return sum(not decoded.fault for decoded in self._seen.values())

    def inspect(self, entry: Entry) -> None:
        decoded = [self._decode(media) for media in entry.media]
        for media, image in zip(entry.media, decoded, strict=True):
            # Empty bytes stand for a field that the reader has reported already.
            if image.fault and media.source != b"":
                allowed = "a whole image file that can be decoded"
                self.faults.append(Fault(entry.origin, media.field, image.fault, allowed))
        if entry.sample is None:
            return
        if entry.sample.pair is not None:
            pictures = zip(entry.media, decoded, strict=True)
            sizes = {
                m.field: (image.width, image.height) for m, image in pictures if not image.fault
            }
            known = entry.sample.truth
            self.faults += pair_faults(entry.sample.pair, known, sizes, entry.origin)
        self.faults += self.videos.inspect(entry.sample)
        decoded = decoded[: len(entry.sample.images)]
        self._check_boxes(entry.sample, decoded)
        self._check_phrases(entry.sample, decoded)
        if self.prompter is not None and not any(image.fault for image in decoded):
            self._render(entry.sample, [image.tokens for image in decoded], self.prompter)
        elif not (self.prediction or _teaches(entry.sample)):
            value = "no supervised turn"
            allowed = "an assistant turn is needed; a file to be answered is checked as such"
            self.faults.append(Fault(entry.origin, "turns", value, allowed))

    def _decode(self, media: Media) -> _Decoded:
        source = media.source
        if source == b"":
            return _Decoded(fault="not named")
        if source not in self._seen:
            self._seen[source] = self._open(media)
        return self._seen[source]

    def _open(self, media: Media) -> _Decoded:
        try:
            image = load_image(media.source)
        except MediaError as error:
            return _Decoded(fault=str(error))
        tokens = 0
        if self.preparer is not None:
            try:
                tokens = self.preparer.prepare([image]).token_counts[0]
            # Image processors of the library refuse odd shapes with a ValueError.
            except (ChiasmError, ValueError) as error:
                return _Decoded(fault=f"the host cannot prepare it: {error}")
        return _Decoded(image.width, image.height, tokens)

    def _check_boxes(self, sample: Sample, decoded: Sequence[_Decoded]) -> None:
        boxes = sample.truth.get("boxes")
        if boxes is None:
            return
        lists = [boxes] if len(decoded) == 1 else boxes
        for index, (image, found) in enumerate(zip(decoded, lists, strict=True)):
            for number, (left, top, right, bottom) in enumerate(found):
                inside = left >= 0 and top >= 0 and right <= image.width and bottom <= image.height
                if not inside and not image.fault:
                    place = f"boxes[{number}]"
                    place = place if len(decoded) == 1 else f"boxes[{index}][{number}]"
                    value = shown([left, top, right, bottom])
                    allowed = f"the image is {image.width} x {image.height} (width x height)"
                    self.faults.append(
                        Fault(sample.origin, place, f"{value} lies outside", allowed)
                    )

    def _check_phrases(self, sample: Sample, decoded: Sequence[_Decoded]) -> None:
        faults = phrase_faults(sample)
        self.faults += [replace(fault, origin=sample.origin) for fault in faults]
        if faults:
            return
        for index, phrase in enumerate(sample.phrases):
            image = decoded[phrase.image]
            if phrase.mask is None or image.fault:
                continue
            name = shown(phrase_text(sample.turns, phrase))
            try:
                read_mask(phrase.mask, image.height, image.width, f"phrase {name}")
                self.masks += 1
            except DataError as error:
                value, _, allowed = str(error).rpartition("; ")
                place = f"phrases[{index}].mask"
                self.faults.append(Fault(sample.origin, place, value, allowed))

    def _render(self, sample: Sample, counts: Sequence[int], prompter: Prompter) -> None:
        try:
            prompt = prompter.render(sample, counts, add_generation_prompt=self.prediction)
        except FaultListError as error:
            for line in error.faults or (str(error),):
                value = line.removeprefix(f"{sample.origin}: ")
                allowed = "the host's chat template must render it"
                self.faults.append(Fault(sample.origin, "prompt", value, allowed))
            return
        self.lengths.append(len(prompt))
        self.supervised += prompt.supervised_tokens
        if self.max_length is not None and len(prompt) > self.max_length:
            visual = sum(counts)
            value = f"{len(prompt)} tokens, {visual} of them visual"
            allowed = f"at most {self.max_length}; shorten it, or raise the limit"
            self.faults.append(Fault(sample.origin, "length", value, allowed))
