"""The part of a recipe that says what a model of long videos is made of."""

from __future__ import annotations

from typing import Any

from pydantic import (
    Field,
    SerializerFunctionWrapHandler,
    SkipValidation,
    field_serializer,
    field_validator,
    model_validator,
)

from chiasm.compression import COMPRESSIONS, CompressionConfig
from chiasm.compression.flow import DIS_SIDE, RAFT_SIDE
from chiasm.compression.merging import GuidedMergingConfig
from chiasm.compression.motion import DISConfig, RAFTConfig
from chiasm.core.config import Config
from chiasm.data.video import Decoder
from chiasm.data.video_sampling import AllSampling, Sampling
from chiasm.data.video_transforms import VideoAugmentConfig, mirrored
from chiasm.data.video_words import VIDEO_REQUEST
from chiasm.data.world.domains import DOMAINS
from chiasm.data.world.motion import ACTIONS
from chiasm.data.world.motion_questions import MOTION_ANSWERS
from chiasm.data.world.motion_words import CAPTION_WORDS, MOTION_WORDS
from chiasm.encoders.frames import FrameEncoderConfig
from chiasm.encoders.video_features import VideoFeaturesConfig
from chiasm.heads.action_decoding import ActionDecoderConfig
from chiasm.heads.actions import ActionHeadConfig
from chiasm.heads.answers import AnswerHeadConfig
from chiasm.heads.captions import CaptionHeadConfig
from chiasm.layers.domains import DomainsConfig
from chiasm.layers.reader import ReaderConfig
from chiasm.recipes.kinds import kind_of, read_kind
from chiasm.recipes.objective_choice import ObjectiveChoice
from chiasm.recipes.validation import CAPTION_LOSS


class VideoChoice(Config):
    """The parts of the family `long_video`. Lists of words are those of the moving worlds."""

    frames: FrameEncoderConfig | None = None
    """The tower that reads frames; by default a small one, unless there are `features`."""
    features: VideoFeaturesConfig | None = None
    """In place of frames: the projection of features that are given."""
    compression: SkipValidation[CompressionConfig] | None = None
    """What merges tokens, with its `kind`; null merges nothing."""
    curriculum: int | None = Field(default=None, ge=1)
    """Batches of training over which the schedule of `compression` runs; null keeps its end."""
    cycle: bool = False
    """Whether the schedule begins again every `curriculum` batches: a model that learns several
    ratios side by side can be asked for any of them."""
    reader: ReaderConfig = ReaderConfig()
    """The layers between tokens and heads."""
    clip: int = Field(default=16, ge=1)
    """Sampled frames that are merged with each other, and read at a time in a stream."""
    at_once: int = Field(default=8, ge=1)
    """Clips that are encoded at a time outside of training."""
    memory: int | None = Field(default=None, ge=1)
    """Most states that questions look at: a video is brought down to so many after reading."""
    sampling: Sampling = Field(default=AllSampling(), discriminator="kind")
    """Which frames are looked at."""
    size: tuple[int, int] = (64, 64)
    """(height, width) that frames are scaled to."""
    file_decoder: Decoder = "pyav"
    """What decodes video files: `pyav`, or `torchcodec` where that is installed."""
    feature_rate: float = Field(default=1.0, gt=0)
    """Features a second of files of features."""
    augment: VideoAugmentConfig | None = None
    """What chance does to the videos of training, with what is said of them; null for nothing."""
    answer_head: AnswerHeadConfig | None = AnswerHeadConfig()
    """Answers out of a closed set; null leaves the head out."""
    action_head: ActionHeadConfig | None = None
    """Actions with start and end; null leaves the head out."""
    caption_head: CaptionHeadConfig | None = None
    """Captions; null leaves the head out."""
    decoder: ActionDecoderConfig = ActionDecoderConfig()
    """How segments are chosen of what the action head says."""
    words: tuple[str, ...] = MOTION_WORDS
    """Words of questions that are told apart."""
    answers: tuple[str, ...] = MOTION_ANSWERS
    """The closed set of answers."""
    actions: tuple[str, ...] = tuple(ACTIONS)
    """What can happen."""
    caption_words: tuple[str, ...] = CAPTION_WORDS
    """Words that captions are written in: each word of each caption that is learned."""
    caption_requests: tuple[str, ...] = (VIDEO_REQUEST,)
    """What a user says who wants a caption."""
    domains: tuple[str, ...] = tuple(DOMAINS)
    """Names of domains."""
    by_domain: DomainsConfig | None = None
    """What the reader does differently by domain; null for nothing."""

    @field_validator("compression", mode="before")
    @classmethod
    def _read_compression(cls, value: Any) -> Any:
        return None if value is None else read_kind(value, COMPRESSIONS, "compression")

    @field_serializer("compression", mode="wrap")
    def _write_compression(
        self, value: CompressionConfig | None, write: SerializerFunctionWrapHandler
    ) -> Any:
        if value is None:
            return None
        plain = value.model_dump(mode="json", exclude_defaults=True)
        return {"kind": kind_of(value, COMPRESSIONS), **plain}

    @field_serializer("sampling", mode="wrap")
    def _write_sampling(self, value: Sampling, write: SerializerFunctionWrapHandler) -> Any:
        # The kind is a default of each, and says which it is all the same.
        return {"kind": value.kind, **value.model_dump(mode="json", exclude_defaults=True)}

    @model_validator(mode="after")
    def _fits(self) -> VideoChoice:
        if self.frames is not None and self.features is not None:
            raise ValueError("`frames` and `features`: a model reads one of the two")
        if self.features is not None and self.compression is not None:
            raise ValueError("`compression` merges cells of frames, and features have none")
        if self.curriculum is not None and (
            self.compression is None or self.compression.schedule is None
        ):
            raise ValueError("`curriculum` needs a `compression` with a `schedule`")
        if isinstance(self.compression, GuidedMergingConfig):
            self._check_merging(self.compression)
        if self.cycle and self.curriculum is None:
            raise ValueError("`cycle` says that a `curriculum` begins again, and there is none")
        if self.features is not None and not isinstance(self.sampling, AllSampling):
            raise ValueError("`sampling` chooses frames; of `features` all are read")
        if self.features is not None and self.file_decoder != "pyav":
            raise ValueError("`file_decoder` decodes frames, and `features` have none")
        if min(self.size) < 1:
            raise ValueError(f"size {self.size}; give (height, width) above 0")
        if self.augment is not None:
            self._check_augment(self.augment)
        if self.answer_head is not None:
            _check_names("answers", self.answers)
            strange = [answer for answer in self.answers if answer != answer.strip().lower()]
            if strange:
                raise ValueError(
                    f"`answers`: {strange[:5]} will never be right, since answers are compared in "
                    "lower case and without space around them; write them so"
                )
        if self.domains:
            _check_names("domains", self.domains)
        if self.caption_head is not None:
            _check_names("caption_words", self.caption_words)
            _check_names("caption_requests", self.caption_requests)
            padded = [text for text in self.caption_requests if text != text.strip()]
            if padded:
                raise ValueError(
                    f"`caption_requests`: {padded} will never be met, since what a user says is "
                    "compared without space around it; write them so"
                )
        router = None if self.by_domain is None else self.by_domain.router
        if router is not None and (router.top or 1) > len(self.domains):
            raise ValueError(f"`by_domain`: top {router.top} of {len(self.domains)} domains")
        width = (self.features or self.encoder).width
        for name, part in (("reader", self.reader), ("answer_head", self.answer_head)):
            if part is not None and width % part.heads:
                raise ValueError(f"{part.heads} heads of `{name}` do not divide the width {width}")
        if self.features is None:
            cell = self.encoder.cell
            if self.size[0] % cell or self.size[1] % cell:
                raise ValueError(f"size {self.size} is no whole number of cells of {cell} pixels")
        return self

    def _check_merging(self, merging: GuidedMergingConfig) -> None:
        importance = merging.importance
        if importance.saliency.attention:
            raise ValueError(
                "`compression.importance.saliency.attention` weighs the attention that cells "
                "receive, and cells are merged before any is paid: give 0 for it"
            )
        sides = {DISConfig: DIS_SIDE, RAFTConfig: RAFT_SIDE}
        least = sides.get(type(importance.motion), 1)
        if min(self.size) < least:
            raise ValueError(
                f"`compression.importance.motion`: its flow needs frames of at least {least} "
                f"pixels a side, and `size` is {self.size}; make them larger, or measure another "
                "motion"
            )
        streams = self.reader.causal and max(self.encoder.offsets, default=-1) < 0
        if streams and merging.budget.spread == "shared":
            raise ValueError(
                "`compression.budget.spread: shared` gives tokens to the clips of a batch that "
                "need them, and a stream has one clip at a time; give `even` or `content`"
            )

    def _check_augment(self, augment: VideoAugmentConfig) -> None:
        if self.features is not None:
            raise ValueError("`augment` changes frames, and `features` have none")
        if augment.frames is not None or augment.size is not None:
            raise ValueError(
                "`augment`: `sampling` says which frames are looked at and `size` how large they "
                "are; leave out `augment.frames` and `augment.size`"
            )
        lists = {
            "actions": (self.action_head, self.actions),
            "answers": (self.answer_head, self.answers),
            "caption_words": (self.caption_head, self.caption_words),
        }
        for name, (head, words) in lists.items():
            strange = sorted({mirrored(word) for word in words} - set(words))
            if augment.flip and head is not None and strange:
                raise ValueError(
                    f"`augment.flip`: in a mirror there are {strange}, which are none of "
                    f"`{name}`; add them, or do not flip"
                )

    def check_objective(self, objective: ObjectiveChoice) -> None:
        """Check that each term of a loss about videos has a part that learns from it.

        Raises:
            ValueError: One has none.
        """
        router = None if self.by_domain is None else self.by_domain.router
        needed = {
            "answers": (objective.answers is not None, "answer_head", self.answer_head),
            "captions": (objective.captions is not None, "caption_head", self.caption_head),
            "actions": (bool(objective.actions), "action_head", self.action_head),
            "router": (bool(objective.router), "by_domain.router", router),
        }
        for term, (asked, name, part) in needed.items():
            if asked and part is None:
                raise ValueError(
                    f"`objective.{term}` needs `video.{name}`: give it, or not the term"
                )
        if objective.cells and self.features is not None:
            raise ValueError("`objective.cells` are of frames, and `video.features` have none")
        if objective.cells and self.augment is not None:
            raise ValueError(
                "`objective.cells` are of frames as worlds paint them, and `video.augment` changes "
                "them; leave out either"
            )

    @property
    def encoder(self) -> FrameEncoderConfig:
        """The tower that reads frames."""
        return self.frames or FrameEncoderConfig()

    @property
    def first_number(self) -> str:
        """The number that picks the best checkpoint."""
        if self.answer_head is not None:
            return "accuracy"
        return "map" if self.action_head is not None or not self.caption_head else CAPTION_LOSS

    @property
    def cells(self) -> tuple[int, int]:
        """(rows, columns) of the cells of a frame."""
        return self.size[0] // self.encoder.cell, self.size[1] // self.encoder.cell


def _check_names(what: str, names: tuple[str, ...]) -> None:
    doubled = sorted({name for name in names if names.count(name) > 1})
    if not names or doubled or not all(name.strip() for name in names):
        raise ValueError(
            f"`{what}`: {len(names)} names, {doubled} more than once; give at least one, each once "
            "and none blank"
        )
