"""What is kept of a video that was read: whole, or clip by clip.

A model whose layers see nothing of the future reads a file clip by clip: frames of one clip are in
memory at a time. Another one reads all sampled frames at once.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from chiasm.core.batch import VideoBatch
from chiasm.core.errors import InputError
from chiasm.core.samples import FrameSource, Sample, VideoSource
from chiasm.core.tokens import VisualTokens
from chiasm.data.feature_files import FEATURE_SUFFIXES
from chiasm.data.media import local_path
from chiasm.data.video import open_video
from chiasm.data.video_sampling import looked_at
from chiasm.encoders.frames import FrameEncoder
from chiasm.encoders.video_features import VideoFeatures
from chiasm.models.long_video import LongVideo
from chiasm.models.probes import probing
from chiasm.models.video_states import frame_states, padded_times

VideoInput = VideoSource | NDArray[np.float32]
"""What can be shown: a path of a video file, a folder of frames or a file of features; an array
THWC uint8 RGB in [0, 255]; features float (frames, width); or something that makes frames."""


@dataclass(frozen=True, eq=False)
class KeptVideo:
    """What is kept of a video.

    Attributes:
        name: What messages call it.
        memory: The states that questions look at, one row.
        pooled: One state a frame for the head of actions, float (1, T, D); None without that head.
        times: When each sampled frame begins, float32 (T,), seconds.
        duration: Seconds.
        change: How much each sampled frame differs from the one before, float32 (T,), 0 for the
            first: mean grey levels of frames, or the distance of features.
        tokens: Tokens before compression, of all frames.
        kept: Tokens after it.
        streamed: Whether it was read clip by clip.
    """

    name: str
    memory: VisualTokens
    pooled: Tensor | None
    times: Tensor
    duration: float
    change: Tensor
    tokens: int
    kept: int
    streamed: bool


def read_video(model: LongVideo, video: Any, domain: str = "") -> KeptVideo:
    """Read a video; arguments and errors as for `ShownVideo.look`."""
    name = name_video(video)
    if not takes_domain(model):
        domain = ""
    elif not domain:
        raise InputError(
            f"{name}: this model has parts for each domain ({', '.join(model.domains)}) and no "
            "router that chooses; give the video's `domain`, beside it or in its record"
        )
    featured = _is_features(video)
    if featured != isinstance(model.reading.encoder, VideoFeatures):
        found, wanted = ("features", "frames") if featured else ("frames", "features")
        raise InputError(
            f"{name}: holds {found}, and this model reads {wanted}; give "
            + ("the video itself" if featured else "features of the encoder it was trained on")
        )
    with probing(model):
        if streams(model):
            return _stream(model, video, name)
        return _read_whole(model, video, name, domain)


def name_video(video: object) -> str:
    """Return what messages and predictions call a video.

    Raises:
        InputError: It is none.
    """
    if isinstance(video, str | Path):
        return str(video)
    if isinstance(video, np.ndarray):
        return "video array" if video.ndim == 4 else "feature array"
    if isinstance(video, FrameSource):
        return type(video).__name__
    raise InputError(
        f"video is of type {type(video).__name__}; allowed: a path of a video, of a folder of "
        "frames or of a file of features, an array uint8 (frames, height, width, 3), or a source "
        "of frames"
    )


def streams(model: LongVideo) -> bool:
    """Whether a model can read a video clip by clip: nothing in it looks at what comes later."""
    encoder, reader = model.reading.encoder, model.reading.reader
    alone = isinstance(encoder, FrameEncoder) and not encoder.future
    return alone and reader.causal and model.by_domain is None


def takes_domain(model: LongVideo) -> bool:
    """Whether each video must say its domain: the model differs by it and has no router."""
    return model.by_domain is not None and model.by_domain.router is None


def _is_features(video: Any) -> bool:
    if isinstance(video, str | Path):
        return Path(video).suffix.lower() in FEATURE_SUFFIXES
    return isinstance(video, np.ndarray) and video.ndim == 2


def _read_whole(model: LongVideo, video: Any, name: str, domain: str) -> KeptVideo:
    source = local_path(video) if isinstance(video, str | Path) else video
    batch = model.collator([Sample(identifier=name, turns=(), video=source, group=domain)])
    videos = batch.to(_device(model)).videos
    assert videos is not None
    _check_features(model, videos, name)
    states, _ = model.think(model.reading.encode(videos), videos)
    frames = (videos.frames or videos.features)[0]
    change = _change(frames, None)
    pooled = _pool(model, states, padded_times(videos.times))
    return KeptVideo(
        name=name,
        memory=model.reading.remember(states),
        pooled=pooled,
        times=videos.times[0].cpu(),
        duration=float(videos.durations[0]),
        change=change.cpu(),
        tokens=int(states.sizes.sum()),
        kept=int(states.mask.sum()),
        streamed=False,
    )


def _stream(model: LongVideo, video: Any, name: str) -> KeptVideo:
    """Read clip by clip; what is kept for each frame is one state and three numbers."""
    collator, reading, device = model.collator, model.reading, _device(model)
    opened = open_video(video, size=collator.size, decoder=collator.decoder)
    chosen = collator.sampling.choose(opened)
    watched, before = reading.begin(), None
    pooled: list[Tensor] = []
    change: list[Tensor] = []
    tokens = kept = 0
    all_times, seen = torch.from_numpy(looked_at(opened, chosen)).float(), 0
    for clip in opened.pieces(chosen, reading.clip):
        frames = torch.from_numpy(clip.frames).to(device)
        times = all_times[seen : seen + len(clip)].to(device)
        seen += len(clip)
        states, watched = reading.watch(frames, times, watched)
        one = _pool(model, states, times[None])
        pooled += [] if one is None else [one]
        change.append(_change(frames, before).cpu())
        before = frames[-1:]
        tokens, kept = tokens + int(states.sizes.sum()), kept + int(states.mask.sum())
    assert watched.memory is not None
    return KeptVideo(
        name=name,
        memory=watched.memory,
        pooled=torch.cat(pooled, 1) if pooled else None,
        times=all_times,
        duration=opened.duration,
        change=torch.cat(change),
        tokens=tokens,
        kept=kept,
        streamed=True,
    )


def _check_features(model: LongVideo, videos: VideoBatch, name: str) -> None:
    encoder = model.reading.encoder
    if isinstance(encoder, VideoFeatures) and videos.features[0].shape[1] != encoder.features:
        frames, width = videos.features[0].shape
        raise InputError(
            f"{name}: {frames} frames of {width} features, and this model reads "
            f"{encoder.features} a frame; encode the video with the encoder it was trained on"
        )


def _pool(model: LongVideo, states: VisualTokens, times: Tensor) -> Tensor | None:
    """Return one state a frame, float (1, T, D), as the head of actions reads them."""
    if model.frame_pool is None:
        return None
    pooled: Tensor = model.frame_pool(frame_states(states, times).features)
    return pooled


def _change(frames: Tensor, before: Tensor | None) -> Tensor:
    """Return how much frames (T, ...) differ from the ones before them, float32 (T,)."""
    first = frames[:1] if before is None else before
    found = []
    # Frame by frame: the difference of all at once would take four times their room.
    for one, other in zip([*first, *frames[:-1]], frames, strict=True):
        difference = other.float() - one.float()
        found.append(difference.abs().mean() if difference.ndim > 1 else difference.norm())
    return torch.stack(found)


def _device(model: LongVideo) -> torch.device:
    return next(model.parameters()).device
