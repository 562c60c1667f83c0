"""The part of a recipe that says which model is extended."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Discriminator, Tag, model_validator

from chiasm.core.config import Config
from chiasm.encoders.codebook import CodebookConfig
from chiasm.language.adapters import LoraAdapterConfig
from chiasm.language.loading import Attention
from chiasm.language.scratch import ScratchHostConfig
from chiasm.language.scratch_janus import ScratchJanusConfig


def _family(value: Any) -> str:
    if isinstance(value, ScratchJanusConfig):
        return "janus"
    return "janus" if isinstance(value, dict) and "family" in value else "qwen2_5_vl"


Scratch = Annotated[
    Annotated[ScratchHostConfig, Tag("qwen2_5_vl")] | Annotated[ScratchJanusConfig, Tag("janus")],
    Discriminator(_family),
]


class HostChoice(Config):
    """The model that is extended: give `path`, or `scratch` for random weights."""

    path: str | None = None
    """A shipped name (`tiny-host`), a run directory, a checkpoint directory, or a hub name."""
    scratch: Scratch | None = None
    """Sizes of a host that starts from random weights; `family: janus` for one that also draws."""
    revision: str | None = None
    """Branch, tag or commit on the hub."""
    dtype: Literal["float32", "bfloat16", "float16"] = "float32"
    """Type of the weights in memory."""
    attention: Attention = "sdpa"
    """Attention implementation of transformers."""
    pixels: tuple[int, int] | None = None
    """(least, most) pixels of a resized picture, for hosts that read pictures of any size."""
    pictures: CodebookConfig | None = None
    """The tokenizer of pictures that a host of the Janus family draws with, in place of its own;
    `pictures.path` may be a shipped name or a run of the family `tokenizer`."""
    lora: LoraAdapterConfig | None = None
    """Low-rank adapters on the language model, as the part `host_adapter`."""

    @model_validator(mode="after")
    def _one_source(self) -> HostChoice:
        if (self.path is None) == (self.scratch is None):
            raise ValueError("give exactly one of `path` and `scratch`")
        return self
