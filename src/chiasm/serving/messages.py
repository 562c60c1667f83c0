"""Requests for chat completions: read strictly, and turned into a conversation.

Parameters that this server cannot honour are refused unless they ask for nothing (`n: 1`, a penalty
of 0, an empty list of tools), because leaving them out would change the answer without a word.
`user`, `metadata` and an image's `detail` change nothing here and are accepted.
"""

from __future__ import annotations

import base64
import binascii
import io
import warnings
from collections.abc import Sequence
from typing import Annotated, Any, Literal

from PIL import Image
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from chiasm.core.errors import ChiasmError
from chiasm.core.samples import Sample
from chiasm.data.chat import read_messages
from chiasm.data.media import load_image
from chiasm.serving.faults import RequestFaultError
from chiasm.serving.limits import Limits

IMAGE_FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP")
SHOWN = 60
"""Characters of an address that a message shows."""


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)

    @model_validator(mode="before")
    @classmethod
    def _leave_out_nothings(cls, values: Any) -> Any:
        """Clients spell out what they do not use as null or as an empty list or object."""
        if not isinstance(values, dict):
            return values
        return {
            name: value
            for name, value in values.items()
            if name in ("messages", "content") or (value is not None and value not in ([], {}))
        }


class TextPart(_Strict):
    """A piece of text."""

    type: Literal["text"]
    text: str


class ImageAddress(_Strict):
    """Where an image is: a data: URI."""

    url: str
    detail: Literal["auto", "low", "high"] = "auto"


class ImagePart(_Strict):
    """An image."""

    type: Literal["image_url"]
    image_url: ImageAddress


class VideoAddress(_Strict):
    """Where a video is: a data: URI."""

    url: str


class VideoPart(_Strict):
    """A video."""

    type: Literal["video_url"]
    video_url: VideoAddress


Part = Annotated[TextPart | ImagePart | VideoPart, Field(discriminator="type")]


class Message(_Strict):
    """One message of a conversation."""

    role: Literal["system", "user", "assistant"]
    content: list[Part] = Field(min_length=1)
    name: str | None = None

    @field_validator("content", mode="before")
    @classmethod
    def _as_parts(cls, value: Any) -> Any:
        return [{"type": "text", "text": value}] if isinstance(value, str) else value


class StreamOptions(_Strict):
    """What a stream holds besides the answer."""

    include_usage: bool = False


class ResponseFormat(_Strict):
    """Only plain text."""

    type: Literal["text"] = "text"


class ChatRequest(_Strict):
    """The body of `POST /v1/chat/completions`.

    Attributes:
        temperature: 0, the default here, takes the likeliest token.
        seed: Makes sampling repeatable.
    """

    model: str | None = None
    messages: list[Message] = Field(min_length=1)
    stream: bool = False
    stream_options: StreamOptions = StreamOptions()
    max_tokens: int | None = Field(default=None, ge=1)
    max_completion_tokens: int | None = Field(default=None, ge=1)
    temperature: float = Field(default=0.0, ge=0, le=2)
    top_p: float = Field(default=1.0, gt=0, le=1)
    stop: tuple[Annotated[str, Field(min_length=1)], ...] = Field(default=(), max_length=4)
    seed: int | None = Field(default=None, ge=-(2**63), lt=2**63)
    n: Literal[1] = 1
    frequency_penalty: float = Field(default=0, ge=0, le=0)
    presence_penalty: float = Field(default=0, ge=0, le=0)
    logprobs: Literal[False] = False
    store: Literal[False] = False
    response_format: ResponseFormat = ResponseFormat()
    user: str | None = None
    metadata: dict[str, str] | None = None

    @field_validator("stop", mode="before")
    @classmethod
    def _as_several(cls, value: Any) -> Any:
        return (value,) if isinstance(value, str) else value

    @property
    def new_tokens(self) -> int | None:
        """The longest answer that the request names."""
        return self.max_completion_tokens or self.max_tokens


def read_request(body: bytes, names: Sequence[str], limits: Limits) -> ChatRequest:
    """Read the body of a request.

    Args:
        body: JSON.
        names: What the model may be called; the first one is its name.
        limits: Bounds.

    Raises:
        RequestFaultError: It is no JSON, something in it is wrong (all faults at once), it names
            another model, or it asks for too much.
    """
    try:
        request = ChatRequest.model_validate_json(body)
    except ValidationError as error:
        raise _invalid(error) from None
    if request.model is not None and request.model not in names:
        raise RequestFaultError(
            f"the model {request.model!r} is not served here; served: {names[0]!r}",
            "model_not_found",
            404,
            "model",
        )
    if (request.new_tokens or 0) > limits.new_tokens:
        raise RequestFaultError(
            f"max_tokens is {request.new_tokens}; at most {limits.new_tokens} are written",
            "max_tokens_too_large",
            param="max_tokens",
        )
    images = sum(isinstance(p, ImagePart) for m in request.messages for p in m.content)
    if images > limits.images:
        raise RequestFaultError(
            f"the conversation has {images} images; at most {limits.images} are read",
            "too_many_images",
            param="messages",
        )
    if request.messages[-1].role != "user":
        raise RequestFaultError(
            f"the last message is of the {request.messages[-1].role}; it must be of the user, "
            "whom the model answers",
            "invalid_value",
            param="messages",
        )
    return request


def read_conversation(request: ChatRequest, limits: Limits) -> Sample:
    """Decode the images of a request and make a sample of it.

    Raises:
        RequestFaultError: An image is no data: URI, too large or no image, or the roles are in no
            order that a conversation can have.
    """
    plain = [
        {
            "role": message.role,
            "content": [
                _plain(part, f"messages[{index}].content[{place}]", limits)
                for place, part in enumerate(message.content)
            ],
        }
        for index, message in enumerate(request.messages)
    ]
    try:
        return read_messages(plain)
    except ChiasmError as error:
        raise RequestFaultError(str(error), "invalid_messages", param="messages") from None


def _plain(part: Part, place: str, limits: Limits) -> dict[str, Any]:
    if isinstance(part, TextPart):
        return {"type": "text", "text": part.text}
    if isinstance(part, VideoPart):
        raise RequestFaultError(
            f"{place}: this model reads no videos; send images, or ask a model that watches",
            "invalid_messages",
            param=place,
        )
    return {"type": "image", "image": _read_image(part.image_url.url, place, limits)}


def _read_image(url: str, place: str, limits: Limits) -> Image.Image:
    head, comma, body = url.partition(",")
    if not comma or not head.lower().startswith("data:image/"):
        raise RequestFaultError(
            f"{place}: the address {shorten(url)!r} is not read: this server opens no file and "
            "fetches nothing from any network; send the image itself, as "
            "data:image/png;base64,...",
            "image_url_not_allowed",
            param=place,
        )
    try:
        if not head.lower().endswith(";base64"):
            raise ValueError("the form is data:image/png;base64,...")
        if len(body) * 3 // 4 > limits.image_bytes + 2:
            raise ValueError(f"it has more than the {limits.image_bytes} bytes that are allowed")
        content = base64.b64decode(body, validate=True)
        # The header only, and only formats whose decoders start no other program.
        with warnings.catch_warnings():
            # The size is checked below, with an error in place of a warning.
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            with Image.open(io.BytesIO(content), formats=IMAGE_FORMATS) as header:
                width, height = header.size
        if width * height > limits.image_pixels:
            raise ValueError(
                f"{width} x {height} pixels are more than the {limits.image_pixels} allowed"
            )
        return load_image(content)
    except (
        ValueError,
        binascii.Error,
        OSError,
        ChiasmError,
        Image.DecompressionBombError,
    ) as error:
        reason = (
            f"not an image of the formats {', '.join(IMAGE_FORMATS)}"
            if isinstance(error, OSError)
            else str(error)
        )
        raise RequestFaultError(
            f"{place}: the image cannot be read: {reason}", "invalid_image", param=place
        ) from None


def shorten(text: str) -> str:
    """Return an address as a message shows it."""
    return text if len(text) <= SHOWN else f"{text[:SHOWN]}..."


def _invalid(error: ValidationError) -> RequestFaultError:
    faults = []
    for fault in error.errors(include_url=False, include_context=False):
        place = ".".join(map(str, fault["loc"])) or "body"
        words = (
            "is not known to this server, or cannot be honoured"
            if fault["type"] == "extra_forbidden"
            else fault["msg"]
        )
        faults.append((place, f"{place}: {words}"))
    unknown = error.errors()[0]["type"] == "extra_forbidden"
    return RequestFaultError(
        "; ".join(words for _, words in faults),
        "unsupported_parameter" if unknown else "invalid_value",
        param=faults[0][0],
    )
