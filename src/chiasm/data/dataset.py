"""Datasets: a file in one of the known forms, a program's own records, or a configured mixture."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, final

from pydantic import Field, model_validator

from chiasm.core.config import Config, read_config
from chiasm.core.errors import DataError, InputError
from chiasm.core.samples import Sample
from chiasm.data.conversation import raise_faults
from chiasm.data.formats import AUTO
from chiasm.data.formats.grounding import GroundingOptions
from chiasm.data.formats.reader import CAPTION_REQUEST, ReadOptions, Supervise
from chiasm.data.mixture import Mixture
from chiasm.data.reading import Convert, read_file, read_record
from chiasm.data.records import Record, read_records


class FileDataset:
    """The samples of a file, held in memory; images are read when they are used.

    Args:
        samples: The samples, in order.
        path: Where they came from.
        format: The format they were read as.
        dropped: What the format left out on purpose, and how often, by reason.
    """

    def __init__(
        self,
        samples: Sequence[Sample],
        path: Path,
        format: str,
        dropped: Mapping[str, int] | None = None,
    ) -> None:
        self.samples = tuple(samples)
        self.path = path
        self.format = format
        self.dropped = dict(dropped or {})

    def __len__(self) -> int:
        """Return the number of samples."""
        return len(self.samples)

    def __getitem__(self, index: int) -> Sample:
        """Return sample `index`; negative indices are refused.

        Raises:
            IndexError: The index is not in [0, length).
        """
        return self.samples[_checked(index, len(self.samples))]

    def __iter__(self) -> Iterator[Sample]:
        """Go through the samples in order."""
        return iter(self.samples)


def load_dataset(
    path: Path | str,
    format: str = AUTO,
    media_root: Path | str | None = None,
    *,
    split: str | None = None,
    group: str = "",
    supervise: Supervise = "all",
    caption_request: str = CAPTION_REQUEST,
    format_conversations: Convert | None = None,
    grounding: GroundingOptions | None = None,
) -> FileDataset:
    """Read a dataset file.

    Args:
        path: JSON, JSONL or Parquet; for some formats a folder or a pickle.
        format: A name in `FORMATS` or `WHOLE_FILES`, or `auto` to tell it from the records.
        media_root: Folder that relative media paths start from; by default that of the file.
        split: Keep the records whose field `split` says this; None keeps all.
        group: Group of records that name none.
        supervise: Score all assistant turns, or the `last` one only.
        caption_request: The user turn written before a caption that has none.
        format_conversations: Called with a record's `conversations` and the path of its image;
            returns messages in the OpenAI and Qwen form, the image among them.
        grounding: How files of phrases and masks are read.

    Raises:
        DataError: There is no such file, or something is wrong in it: all faults at once.
        UnknownNameError: No such format.
    """
    options = _options(path, media_root, supervise, caption_request, group, grounding)
    reading = read_file(path, format, options, format_conversations)
    raise_faults(str(path), reading.faults)
    samples = reading.samples
    if split is not None:
        samples = tuple(sample for sample in samples if sample.truth.get("split") == split)
        if not samples:
            known = sorted({str(s.truth.get("split", "(none)")) for s in reading.samples})
            raise DataError(f"{path}: no record of split {split!r}; it has: {', '.join(known)}")
    if not samples:
        left_out = ", ".join(f"{count} {reason}" for reason, count in reading.dropped.items())
        raise DataError(f"{path}: no sample is left; left out: {left_out or 'nothing'}")
    return FileDataset(samples, Path(path), reading.format, reading.dropped)


def _options(
    path: Path | str,
    media_root: Path | str | None,
    supervise: Supervise = "all",
    caption_request: str = CAPTION_REQUEST,
    group: str = "",
    grounding: GroundingOptions | None = None,
) -> ReadOptions:
    if supervise not in ("all", "last"):
        raise InputError(f"supervise {supervise!r} is not allowed; allowed: 'all', 'last'")
    if not caption_request.strip():
        raise InputError("the caption request is blank; give a text, or leave the default")
    root = Path(path).parent if media_root is None else Path(media_root)
    if media_root is not None and not root.is_dir():
        raise DataError(f"media_root {root} is not a folder; correct it, or leave it out")
    return ReadOptions(root, supervise, caption_request, group, grounding or GroundingOptions())


class RecordDataset(ABC):
    """A dataset of a program's own: records from a file, made into samples by `to_sample`.

    Args:
        path: JSON, JSONL or Parquet.
        media_root: Folder that relative media paths start from; by default that of the file.

    Raises:
        DataError: There is no such file, or a record cannot be read.
    """

    def __init__(self, path: Path | str, media_root: Path | str | None = None) -> None:
        self.path = Path(path)
        self.options = _options(path, media_root)
        self.records, faults = read_records(path)
        raise_faults(str(path), faults)

    @abstractmethod
    def to_sample(self, record: Record) -> Sample:
        """Make a sample of a record; relative paths start from `self.options.media_root`."""

    @final
    def __len__(self) -> int:
        """Return the number of records."""
        return len(self.records)

    @final
    def __getitem__(self, index: int) -> Sample:
        """Return sample `index`.

        Raises:
            IndexError: The index is not in [0, length).
        """
        return self.to_sample(self.records[_checked(index, len(self.records))])


class ConversationDataset(RecordDataset):
    """A dataset whose conversations a subclass writes as messages.

    Records have the fields of the `vqa` form; everything but the conversation is read as there.
    """

    @abstractmethod
    def format_conversations(
        self, conversations: Any, image_path: Path | str | None
    ) -> Sequence[Mapping[str, Any]]:
        """Return messages in the OpenAI and Qwen form, the image among them.

        Args:
            conversations: The record's field of that name.
            image_path: The record's image, as an absolute path.
        """

    @final
    def to_sample(self, record: Record) -> Sample:
        """Make a sample of a record.

        Raises:
            DataError: The messages are malformed.
        """
        entry, faults = read_record(record, "messages", self.options, self.format_conversations)
        raise_faults(record.origin, faults)
        if entry.sample is None:
            raise DataError(f"{record.origin}: no sample")
        return entry.sample


class DatasetArguments(Config):
    """Arguments of one file dataset; see `load_dataset`.

    Attributes:
        data_path: The file.
        image_root: Folder that relative media paths start from.
        split: Keep records of this split only.
        supervise: `all` assistant turns or the `last`.
        caption_request: The user turn written before a caption that has none.
        grounding: How files of phrases and masks are read.
    """

    data_path: Path
    image_root: Path | None = None
    split: str | None = None
    supervise: Supervise = "all"
    caption_request: str = CAPTION_REQUEST
    grounding: GroundingOptions = GroundingOptions()


class DatasetConfig(Config):
    """A dataset by configuration: one file, or several with weights.

    Attributes:
        type: A format of `chiasm.data.formats.FORMATS`, `auto`, or `multi`.
        args: Of a file dataset.
        datasets: Of a `multi`, the datasets it draws from.
        weights: Of a `multi`, the share of each in the draws; by default their sizes.
        seed: Of a `multi`, seed of the draws.
    """

    type: Literal[
        "multi",
        "auto",
        "messages",
        "llava",
        "pairs",
        "vqa",
        "captioning",
        "medical",
        "nlvr",
        "phrases",
        "refcoco",
        "narratives",
        "coco_instances",
        "coco_panoptic",
        "videos",
    ]
    args: DatasetArguments | None = None
    datasets: tuple[DatasetConfig, ...] = ()
    weights: tuple[float, ...] | None = None
    seed: int = Field(default=0, ge=0)

    @model_validator(mode="after")
    def _check(self) -> DatasetConfig:
        several = self.type == "multi"
        if several and (self.args is not None or not self.datasets):
            raise ValueError("a multi dataset needs `datasets`, and has no `args`")
        if not several and (self.args is None or self.datasets or self.weights is not None):
            raise ValueError("a file dataset needs `args`, and has no `datasets` or `weights`")
        if any(dataset.type == "multi" for dataset in self.datasets):
            raise ValueError("a multi dataset holds file datasets; list all of them in one")
        if self.weights is not None and len(self.weights) != len(self.datasets):
            raise ValueError(
                f"{len(self.weights)} weights for {len(self.datasets)} datasets; give one each"
            )
        return self

    def build(self) -> FileDataset | Mixture:
        """Read the files."""
        if self.args is not None:
            return load_dataset(
                self.args.data_path,
                self.type,
                self.args.image_root,
                split=self.args.split,
                supervise=self.args.supervise,
                caption_request=self.args.caption_request,
                grounding=self.args.grounding,
            )
        parts = {_name(i, config): config.build() for i, config in enumerate(self.datasets)}
        files = {name: part for name, part in parts.items() if isinstance(part, FileDataset)}
        weights = None if self.weights is None else dict(zip(files, self.weights, strict=True))
        return Mixture(files, weights, seed=self.seed)


def create_dataset(config: Mapping[str, Any]) -> FileDataset | Mixture:
    """Build a dataset from plain values.

        {"type": "multi",
         "datasets": [{"type": "vqa", "args": {"data_path": "vqa.json"}},
                      {"type": "captioning", "args": {"data_path": "captions.json"}}],
         "weights": [0.7, 0.3]}

    Args:
        config: See `DatasetConfig`.

    Returns:
        The dataset; for `multi` a `Mixture`, an endless sequence by position.

    Raises:
        ConfigError: The configuration is wrong: all faults at once.
        DataError: A file is wrong: all faults at once.
    """
    return read_config(DatasetConfig, config, "dataset").build()


def _name(index: int, config: DatasetConfig) -> str:
    stem = config.args.data_path.stem if config.args is not None else config.type
    return f"{index}-{config.type}-{stem}"


def _checked(index: int, length: int) -> int:
    if not 0 <= index < length:
        raise IndexError(f"sample {index} of {length}; indices go from 0")
    return index
