"""Tiny random models that answer about videos by a host, and conversations for them."""

from __future__ import annotations

from typing import Any

import torch

from chiasm.core.samples import Sample, Turn
from chiasm.data.prompts import Prompter
from chiasm.data.video_prompts import VideoPromptCollator
from chiasm.language.host import Host
from chiasm.language.video_projector import VideoProjectorConfig
from chiasm.models.video_language import VideoLanguage
from tests.tiny_hosts import build_tiny
from tests.tiny_videos import tiny_video

BUDGET = 11
"""States of a video; a frame of `tests.tiny_videos` has 6 cells."""


def tiny_teller(
    family: str = "qwen2_5_vl", budget: int = BUDGET, host: Host | None = None, **changes: Any
) -> VideoLanguage:
    """Build a model with random weights in evaluation mode; `changes` are of what watches."""
    host = host or build_tiny(family)
    watcher = tiny_video(seed=5, memory=budget, answer_head=None, **changes)
    torch.manual_seed(7)
    projector = VideoProjectorConfig().build(
        width=watcher.reading.encoder.width, output=host.token_width
    )
    prompter = Prompter(host.tokenizer, host.image_token, host.image_text)
    collator = VideoPromptCollator(prompter, watcher.collator, budget=budget)
    return VideoLanguage(host=host, watcher=watcher, projector=projector, collator=collator).eval()


def told(video: Any, *said: str, name: str = "video") -> Sample:
    """Return a conversation about a video: question, answer, question, ..."""
    turns = tuple(
        Turn("assistant", (text,), supervised=True) if place % 2 else Turn("user", (text,))
        for place, text in enumerate(said)
    )
    return Sample(identifier=name, turns=turns, video=video)
