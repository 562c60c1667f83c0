"""The recipe: one YAML file that names a whole run."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field, SkipValidation, field_validator, model_validator

from chiasm.core.config import Config
from chiasm.core.errors import ConfigError
from chiasm.data.world.worlds import POINTING_REQUEST
from chiasm.encoders import ENCODERS, EncoderConfig
from chiasm.fusion import FUSIONS, FusionConfig
from chiasm.heads.mask_refiner import MaskRefinerConfig
from chiasm.models.dual_encoder_modes import FREEZE_FLAGS, TRAINING_MODES
from chiasm.models.segmenter import SegmenterConfig
from chiasm.models.tokenizer import TokenizerConfig
from chiasm.recipes.data_choice import DataChoice
from chiasm.recipes.host_choice import HostChoice
from chiasm.recipes.kinds import kind_of, read_kind
from chiasm.recipes.objective_choice import ObjectiveChoice
from chiasm.recipes.occlusion_choice import OcclusionChoice
from chiasm.recipes.tokenizers import PICTURES_NUMBER
from chiasm.recipes.training_choice import TrainingChoice
from chiasm.recipes.validation import MASKS_NUMBER, first_number
from chiasm.recipes.video_choice import VideoChoice
from chiasm.recipes.video_language_choice import VideoLanguageChoice


class GroundingChoice(Config):
    """The mask heads of the family `grounding`."""

    reads: Literal["maps", "colours"] = "maps"
    """What the coarse head reads: `maps` of the host's attention, by the U-Net; or `colours` and
    places of the picture and the words of the phrase, by a head of a few thousand weights that
    needs few pictures and no attention. `widths`, `least` and `merge` are the U-Net's."""
    widths: tuple[int, ...] = Field(default=(64, 128, 256, 512), min_length=1)
    """Channels of each stage of the mask U-Net."""
    least: int = Field(default=64, gt=0)
    """Maps whose longer side is shorter are enlarged to this many places."""
    merge: Literal["mean", "max"] = "mean"
    """How the attention of a phrase's tokens becomes one map."""
    refiner: MaskRefinerConfig | None = None
    """Refinement by a Segment Anything model; `refiner.sam.path` may be a shipped name."""
    request: str = Field(default=POINTING_REQUEST, min_length=1)
    """What the user asks, where phrases are pointed at outside a conversation."""


WITHOUT_HOST = ("segmenter", "tokenizer", "long_video")
"""Families that extend no host."""

WATCHING = ("long_video", "video_language")
"""Families that watch videos."""

VIDEO_TERMS = ("answers", "captions", "actions", "router")
"""Terms of the loss that only the family `long_video` has."""

TERMS = {"long_video": (*VIDEO_TERMS, "cells"), "video_language": ("tokens",)}
"""Family that watches videos -> the terms of the loss that count anything there."""


class Recipe(Config):
    """A whole run."""

    family: Literal[
        "dual_encoder",
        "cell_classifier",
        "grounding",
        "segmenter",
        "tokenizer",
        "occlusion",
        "long_video",
        "video_language",
    ]
    """What is built."""
    description: str = ""
    """What the run is for, for people."""
    host: HostChoice | None = None
    """The model that is extended (for `cell_classifier`: whose grid and prompts are used). For
    `grounding`, `host.path` may also be a run of the family `dual_encoder`, further eyes included.
    A `segmenter`, a `tokenizer` and `long_video` have none."""
    encoders: dict[str, SkipValidation[EncoderConfig]] = Field(default_factory=dict)
    """Extra encoders by name, each with its `kind`."""
    fusion: SkipValidation[FusionConfig] | None = None
    """The fusion with its `kind`; needed exactly when there are encoders."""
    dense_head: bool = False
    """Whether the host's own visual tokens are also taught, cell by cell, the words of what they
    show; the attributes are those of `objective.cells`."""
    grounding: GroundingChoice | None = None
    """The mask heads; for the family `grounding`, whose defaults are those of F-LMM."""
    occlusion: OcclusionChoice | None = None
    """The three levels; for the family `occlusion`, whose defaults are those of HTFA."""
    segmenter: SegmenterConfig | None = None
    """The model and its prompts; needed exactly for the family `segmenter`."""
    tokenizer: TokenizerConfig | None = None
    """The codebook and how it is kept in use; needed exactly for the family `tokenizer`."""
    video: VideoChoice | None = None
    """The parts of the family `long_video`, which has defaults for all of them; and of
    `video_language` where no run watches for it (`video_language.path`)."""
    video_language: VideoLanguageChoice | None = None
    """How videos reach the host of the family `video_language`, which has defaults for it."""
    control: Literal["none", "null_eye"] = "none"
    """`null_eye` gives each image the extra encoders' view of another image: the same parameters
    and the same compute without the information, as a control."""
    data: DataChoice
    """What is learned from and what is measured on."""
    objective: ObjectiveChoice
    """The terms of the loss."""
    training: TrainingChoice
    """How it is trained, stage by stage."""
    training_mode: str | None = None
    """Training mode of stages that name neither mode nor parts."""
    freeze_config: dict[str, bool] = Field(default_factory=dict)
    """Freeze flags stored with the recipe; a training mode overrides them."""
    freeze: dict[str, bool] = Field(default_factory=dict)
    """Explicit freeze flags of this run; they override modes and `freeze_config`."""
    seed: int = Field(default=0, ge=0)
    """Seed of weights, order and dropout."""

    @field_validator("encoders", mode="before")
    @classmethod
    def _read_encoders(cls, value: Any) -> Any:
        if not isinstance(value, dict):
            return value
        return {name: read_kind(entry, ENCODERS, "encoder") for name, entry in value.items()}

    @field_validator("fusion", mode="before")
    @classmethod
    def _read_fusion(cls, value: Any) -> Any:
        return None if value is None else read_kind(value, FUSIONS, "fusion")

    @field_validator("training_mode")
    @classmethod
    def _known_mode(cls, mode: str | None) -> str | None:
        if mode is not None and mode not in TRAINING_MODES:
            raise ValueError(f"unknown training mode; known: {', '.join(TRAINING_MODES)}")
        return mode

    @field_validator("freeze", "freeze_config")
    @classmethod
    def _known_flags(cls, flags: dict[str, bool]) -> dict[str, bool]:
        unknown = sorted(set(flags) - set(FREEZE_FLAGS))
        if unknown:
            raise ValueError(f"unknown flags {unknown}; known: {', '.join(FREEZE_FLAGS)}")
        return flags

    @model_validator(mode="after")
    def _fits(self) -> Recipe:
        if (self.family in WITHOUT_HOST) != (self.host is None):
            raise ValueError(
                f"family {self.family}: `host` is missing, or is given to a family without one "
                f"({', '.join(WITHOUT_HOST)})"
            )
        if (self.family == "segmenter") != (self.segmenter is not None):
            raise ValueError(f"family {self.family}: `segmenter` is missing, or of no use")
        if (self.family == "tokenizer") != (self.tokenizer is not None):
            raise ValueError(f"family {self.family}: `tokenizer` is missing, or of no use")
        if self.family != "grounding" and self.grounding is not None:
            raise ValueError(f"family {self.family} has no use for `grounding`")
        if self.family != "occlusion" and self.occlusion is not None:
            raise ValueError(f"family {self.family} has no use for `occlusion`")
        if self.family != "video_language" and self.video_language is not None:
            raise ValueError(f"family {self.family} has no use for `video_language`")
        watched = self.video_language is not None and self.video_language.path is not None
        if self.video is not None and (watched or self.family not in WATCHING):
            why = "a run watches, `video_language.path`" if watched else f"family {self.family}"
            raise ValueError(f"{why}: there is no use for `video`")
        self._check_terms()
        if self.family == "long_video":
            self.video_parts.check_objective(self.objective)
        if self.family in ("segmenter", "occlusion", *WATCHING) and self.encoders:
            raise ValueError(f"family {self.family}: it has no extra encoders")
        if self.family in ("dual_encoder", "grounding") and bool(self.encoders) != (
            self.fusion is not None
        ):
            raise ValueError("`encoders` and `fusion` belong together: give both or neither")
        if self.family == "cell_classifier" and len(self.encoders) != 1:
            raise ValueError(f"a cell classifier trains one encoder; {len(self.encoders)} given")
        if self.control == "null_eye" and not self.encoders:
            raise ValueError("the control `null_eye` needs extra encoders")
        if self.training.patience is not None and not self.data.validation:
            raise ValueError("`training.patience` waits for evaluations: give `data.validation`")
        return self

    def _check_terms(self) -> None:
        own = TERMS.get(self.family)
        strange = [
            term
            for term in sorted(self.objective.given)
            if (term in VIDEO_TERMS if own is None else term not in own)
        ]
        if strange:
            known = "those of pictures and text" if own is None else ", ".join(own)
            raise ValueError(
                f"family {self.family}: `objective` has {', '.join(strange)}, of which nothing in "
                f"it learns; leave out what is none of its terms ({known})"
            )
        refined = [term for term in self.objective.masks if term.startswith("refined.")]
        refined += ["mask_quality"] if self.objective.mask_quality is not None else []
        unrefined = (self.grounding or GroundingChoice()).refiner is None
        if refined and self.family == "grounding" and unrefined:
            raise ValueError(
                f"`objective` has {', '.join(refined)}, and nothing refines masks: give "
                "`grounding.refiner`, or leave them out"
            )

    @property
    def base_host(self) -> HostChoice:
        """The host of a recipe whose family has one.

        Raises:
            ConfigError: The family has none.
        """
        if self.host is None:
            raise ConfigError(f"a recipe of the family {self.family} has no host")
        return self.host

    @property
    def video_parts(self) -> VideoChoice:
        """The parts of a model of long videos, those of the defaults where none are given."""
        return self.video or VideoChoice()

    @property
    def metric(self) -> str | None:
        """The number that picks the best checkpoint; None without validation samples."""
        if not self.data.validation:
            return None
        own = {
            "cell_classifier": "accuracy",
            "segmenter": "iou",
            "tokenizer": PICTURES_NUMBER,
            "grounding": MASKS_NUMBER,
            "long_video": self.video_parts.first_number,
        }
        return self.training.metric or own.get(self.family) or first_number(self.data.measure)

    def to_plain(self) -> dict[str, Any]:
        """Return the recipe as YAML can hold it, kinds included, without unset values."""
        options: dict[str, Any] = {"mode": "json", "exclude_none": True}
        # None is kept where it stands against a default: it leaves a part out.
        plain = self.model_dump(
            mode="json", exclude_defaults=True, exclude={"encoders", "fusion", "family"}
        )
        plain["family"] = self.family
        if self.encoders:
            plain["encoders"] = {
                name: {"kind": kind_of(encoder, ENCODERS)}
                | encoder.model_dump(**options, exclude_defaults=True)
                for name, encoder in self.encoders.items()
            }
        if self.fusion is not None:
            values = self.fusion.model_dump(**options)
            plain["fusion"] = {"kind": kind_of(self.fusion, FUSIONS), **values}
        return {name: plain[name] for name in type(self).model_fields if name in plain}
