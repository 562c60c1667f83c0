"""Videos of requests: read from data: URIs, within limits, by a model that answers about them."""

from __future__ import annotations

import base64
import binascii
import tempfile
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

from chiasm.core.errors import ChiasmError
from chiasm.core.samples import Sample, Turn
from chiasm.data.video import open_video
from chiasm.data.video_sampling import RateSampling, Sampling
from chiasm.inference.answers import Answer
from chiasm.inference.responding import Generation
from chiasm.inference.senses import Sensing
from chiasm.inference.telling import tell
from chiasm.inference.videos import ShownVideo, as_watching
from chiasm.models.video_language import VideoLanguage
from chiasm.serving.faults import RequestFaultError
from chiasm.serving.limits import Limits
from chiasm.serving.messages import ChatRequest, TextPart, VideoPart, shorten

BEGINNINGS = {".mp4": (4, b"ftyp"), ".webm": (0, b"\x1a\x45\xdf\xa3"), ".avi": (8, b"AVI ")}
"""Suffix -> where in the file of that form stands what. A decoder that is left to guess could take
a playlist for a video, and open whatever it names."""

Write = Callable[[Generation, Callable[[str], None]], list[Answer]]


def look_at_video(model: Sensing, request: ChatRequest, limits: Limits) -> tuple[Write, int]:
    """Watch the video of a request.

    Args:
        model: A model that answers about videos.
        request: One message of the user, with one video and a question.
        limits: Bounds.

    Returns:
        What answers the question, and how many tokens the model reads: those it keeps of the
        video, and the prompt around them where a host answers.

    Raises:
        RequestFaultError: The request has another form, or the video cannot be read or is too long.
    """
    url, question = _one_question(request)
    content, suffix = _decode(url, limits)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"video{suffix}"
        path.write_bytes(content)
        try:
            watcher = as_watching(model)
            _check_length(path, limits, watcher.collator.sampling)
            shown = ShownVideo.look(watcher, path)
        except ChiasmError as error:
            # Where the server put the file is nobody's business.
            reason = str(error).replace(str(path), "the video")
            raise _invalid(reason) from None
    if isinstance(model, VideoLanguage):
        return _prompt(model, shown, question)
    return partial(_write, shown, question), int(shown.memory.mask.sum())


def _prompt(model: VideoLanguage, shown: ShownVideo, question: str) -> tuple[Write, int]:
    """Return what a host answers, and the tokens of its prompt."""
    turns = (Turn("user", (question,)),)
    if not question.strip():
        raise RequestFaultError(
            "the message has a video and no text; ask something about it",
            "invalid_messages",
            param="messages",
        )
    length = model.collator.write([Sample("question", turns, video=shown.name)], generation=True)

    def write(generation: Generation, follow: Callable[[str], None]) -> list[Answer]:
        return [tell(model, shown, turns, generation, follow)]

    return write, length.input_ids.shape[1]


def _write(
    shown: ShownVideo, question: str, generation: Generation, follow: Callable[[str], None]
) -> list[Answer]:
    """Answer; where the model watches, say what happens in the video as well."""
    answer = shown.ask(question, generation, on_text=follow)
    if "watch" in shown.model.senses and len(shown.times) > 1:
        answer = replace(answer, segments=tuple(shown.segments()))
    return [answer]


def _one_question(request: ChatRequest) -> tuple[str, str]:
    """Return the address of the video, and the question."""
    parts = request.messages[-1].content
    videos = [part.video_url.url for part in parts if isinstance(part, VideoPart)]
    texts = [part.text for part in parts if isinstance(part, TextPart)]
    if len(request.messages) != 1 or len(videos) != 1 or len(videos) + len(texts) != len(parts):
        raise RequestFaultError(
            f"{len(request.messages)} message(s), the last with {len(videos)} video(s) in "
            f"{len(parts)} part(s); this model reads one question about one video and remembers "
            "nothing: send one message of the user, with one video and text",
            "invalid_messages",
            param="messages",
        )
    return videos[0], "".join(texts)


def _decode(url: str, limits: Limits) -> tuple[bytes, str]:
    """Return the bytes of a video, and the suffix of its form."""
    head, comma, body = url.partition(",")
    if not comma or not head.lower().startswith("data:video/"):
        raise RequestFaultError(
            f"the address {shorten(url)!r} is not read: this server opens no file and fetches "
            "nothing from any network; send the video itself, as data:video/mp4;base64,...",
            "video_url_not_allowed",
            param="messages",
        )
    if not head.lower().endswith(";base64"):
        raise _invalid("the form is data:video/mp4;base64,...")
    if len(body) * 3 // 4 > limits.video_bytes + 2:
        raise _invalid(f"it has more than the {limits.video_bytes} bytes that are allowed")
    try:
        content = base64.b64decode(body, validate=True)
    except (ValueError, binascii.Error) as error:
        raise _invalid(str(error)) from None
    for suffix, (place, mark) in BEGINNINGS.items():
        if content[place : place + len(mark)] == mark:
            return content, suffix
    raise _invalid("not a video of the forms MP4 (or QuickTime), WebM (or Matroska), AVI")


def _check_length(path: Path, limits: Limits, sampling: Sampling) -> None:
    video = open_video(path)
    height, width = video.size
    if len(video) > limits.video_frames:
        raise _invalid(f"{len(video)} frames are more than the {limits.video_frames} allowed")
    if height * width > limits.video_pixels:
        raise _invalid(
            f"frames of {width} x {height} pixels are more than the {limits.video_pixels} allowed"
        )
    if isinstance(sampling, RateSampling):
        # A frame that lasts for years is looked at more often than any memory holds.
        most = min(limits.video_frames, sampling.most or limits.video_frames)
        sampling.model_copy(update={"most": most}).choose(video)


def _invalid(reason: str) -> RequestFaultError:
    return RequestFaultError(
        f"the video cannot be read: {reason}", "invalid_video", param="messages"
    )
