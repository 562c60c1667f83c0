"""Images from paths, bytes, data URIs, PIL images and arrays, always as 8-bit RGB.

What happens to the kinds of image that are not plain 8-bit RGB:

- EXIF rotation is applied, so pixels are those the user sees.
- Transparency (alpha channel, transparent colour) is laid on white.
- Palette, grey, 1-bit, CMYK, YCbCr, LAB and HSV are converted by Pillow, without colour profiles.
- 16-bit grey is divided by 257, so 65535 becomes 255. 32-bit integers are taken as 16-bit grey when
  they lie in [0, 65535]. Other 32-bit integers and floats have no agreed range and are refused.
- Of an image with several frames (GIF, MPO, TIFF) the first one is read.
"""

from __future__ import annotations

import base64
import binascii
import io
import re
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import IO
from urllib.parse import unquote_to_bytes, urlsplit
from urllib.request import url2pathname

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from chiasm.core.errors import MediaError
from chiasm.core.samples import ImageSource

MAX_PIXELS = 89_478_485
"""Most pixels of an image: Pillow's own limit, beyond which a small file may be an attack."""

Decode = Callable[[Image.Image, str], Image.Image]

_PNG_HEADER = 8
"""Bytes before the first chunk of a PNG."""

_SCHEME = re.compile(r"^([a-zA-Z][a-zA-Z0-9+.-]+):")  # two letters or more: C:\ is no scheme


def load_image(source: ImageSource) -> Image.Image:
    """Read one image.

    Args:
        source: A path or `file:` URI, a `data:` URI, the bytes of an image file, a PIL image, or
            an array HWC uint8 in [0, 255] with three channels.

    Returns:
        A PIL image of mode RGB that holds its pixels and no open file.

    Raises:
        MediaError: The source is missing, empty, truncated, too large, not an image, or of a kind
            with no agreed conversion; the message names it.
    """
    if isinstance(source, np.ndarray):
        return _from_array(source)
    if isinstance(source, Image.Image):
        return _decode(source, f"image of mode {source.mode}")
    if isinstance(source, bytes):
        return _from_bytes(source, "image bytes")
    if isinstance(source, str) and source[:5].lower() == "data:":
        return _from_data_uri(source)
    return _from_path(local_path(source))


def load_stored(path: Path) -> Image.Image:
    """Read an image file whose values are labels, not colours: nothing is converted or rotated.

    Returns:
        A PIL image in the mode of the file (palette indices for a palette), with its `format`.

    Raises:
        MediaError: As for `load_image`, but that every kind of image is read.
    """
    return _from_path(path, _stored)


def local_path(source: str | Path) -> Path:
    """Return the path a string stands for.

    Raises:
        MediaError: The string is an address on a network, which is never fetched.
    """
    if isinstance(source, Path):
        return source
    scheme = _SCHEME.match(source)
    if scheme is None:
        return Path(source)
    if scheme.group(1).lower() == "file":
        parts = urlsplit(source)
        if parts.netloc not in ("", "localhost"):
            raise MediaError(f"{source}: names the machine {parts.netloc!r}; give a local path")
        return Path(url2pathname(parts.path))
    if scheme.group(1).lower() in ("http", "https", "ftp", "s3", "gs", "hf"):
        raise MediaError(
            f"{source}: addresses on a network are not fetched; download the file and give its "
            "path, or give a data: URI"
        )
    return Path(source)


def _from_path(path: Path, decode: Decode | None = None) -> Image.Image:
    try:
        size = path.stat().st_size
        if path.is_dir():
            raise MediaError(f"{path}: is a folder; give an image file")
        if size == 0:
            raise MediaError(f"{path}: is empty (0 bytes); write or download it again")
        with path.open("rb") as file:
            return _open(file, str(path), decode or _decode)
    except FileNotFoundError:
        raise MediaError(f"{path}: does not exist; correct the path or set media_root") from None
    except (OSError, ValueError) as error:
        raise MediaError(f"{path}: cannot be read: {error}") from error


def _from_bytes(content: bytes, name: str) -> Image.Image:
    if not content:
        raise MediaError(f"{name}: empty (0 bytes); write or download the image again")
    return _open(io.BytesIO(content), name)


def _from_data_uri(uri: str) -> Image.Image:
    name = f"data URI {uri[:40]!r}..."
    head, comma, body = uri.partition(",")
    if not comma:
        raise MediaError(f"{name}: has no comma; the form is data:image/png;base64,CONTENT")
    try:
        content = (
            base64.b64decode("".join(unquote_to_bytes(body).decode("ascii").split()), validate=True)
            if head.lower().endswith(";base64")
            else unquote_to_bytes(body)
        )
    except (binascii.Error, ValueError) as error:
        raise MediaError(f"{name}: is not valid base64: {error}") from error
    return _from_bytes(content, name)


def _from_array(array: np.ndarray) -> Image.Image:
    if array.dtype != np.uint8 or array.ndim != 3 or array.shape[-1] != 3 or 0 in array.shape:
        raise MediaError(
            f"image array {array.dtype} {array.shape} is not allowed; allowed: uint8 "
            "(height, width, 3) in [0, 255]"
        )
    _check_size(array.shape[1], array.shape[0], "image array")
    return Image.fromarray(array)


def _open(file: IO[bytes], name: str, decode: Decode | None = None) -> Image.Image:
    try:
        with warnings.catch_warnings():
            # The size is checked below, with an error in place of a warning.
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            image = Image.open(file)
    except UnidentifiedImageError:
        raise MediaError(
            f"{name}: is not an image of a known format; allowed: what Pillow reads (PNG, JPEG, "
            "WebP, TIFF, BMP, GIF, ...)"
        ) from None
    except Image.DecompressionBombError as error:
        raise MediaError(f"{name}: {error}; make the image smaller") from error
    except Exception as error:
        raise MediaError(f"{name}: cannot be opened: {_reason(error)}") from error
    with image:
        decoded = (decode or _decode)(image, name)
    if image.format == "PNG":
        _check_png_end(file, name)
    return decoded


def _check_png_end(file: IO[bytes], name: str) -> None:
    """Check that a PNG has its last chunk; the decoder is content when it has all pixels.

    Raises:
        MediaError: The file is cut off.
    """
    file.seek(_PNG_HEADER)
    while len(head := file.read(8)) == 8:
        length = int.from_bytes(head[:4], "big")
        if head[4:] == b"IEND" and len(file.read(4)) == 4:
            return
        file.seek(length + 4, io.SEEK_CUR)
    raise MediaError(
        f"{name}: cannot be decoded, it is truncated or damaged: its end is missing; write or "
        "download it again"
    )


def _decode(image: Image.Image, name: str) -> Image.Image:
    return _loaded(image, name, lambda: _to_rgb(ImageOps.exif_transpose(image), name))


def _stored(image: Image.Image, name: str) -> Image.Image:
    kept = _loaded(image, name, image.copy)
    kept.format = image.format
    return kept


def _loaded(image: Image.Image, name: str, convert: Callable[[], Image.Image]) -> Image.Image:
    """Decode an opened image and return what `convert` makes of it."""
    _check_size(image.width, image.height, name)
    try:
        with warnings.catch_warnings():
            # A remark on a broken header is followed by an error where pixels are lost.
            warnings.simplefilter("ignore")
            image.load()
            return convert()
    except MediaError:
        raise
    # Decoders of broken files raise whatever their parsing runs into.
    except Exception as error:
        raise MediaError(
            f"{name}: cannot be decoded, it is truncated or damaged: {_reason(error)}; write or "
            "download it again"
        ) from error


def _check_size(width: int, height: int, name: str) -> None:
    if width < 1 or height < 1:
        raise MediaError(f"{name}: is {width} x {height} pixels; an image needs at least one")
    if width * height > MAX_PIXELS:
        raise MediaError(
            f"{name}: {width} x {height} = {width * height} pixels, at most {MAX_PIXELS} are "
            "allowed; make the image smaller"
        )


def _to_rgb(image: Image.Image, name: str) -> Image.Image:
    mode = image.mode
    if mode.startswith("I;16"):
        return _from_sixteen_bits(np.asarray(image).astype(np.uint16))
    if mode == "I":
        values = np.asarray(image)
        if values.min() < 0 or values.max() > 65535:
            raise MediaError(
                f"{name}: 32-bit grey in [{values.min()}, {values.max()}], which has no agreed "
                "range; convert it to 8-bit, or to 16-bit in [0, 65535]"
            )
        return _from_sixteen_bits(values.astype(np.uint16))
    if mode == "F":
        raise MediaError(
            f"{name}: floating-point pixels have no agreed range; convert the image to 8-bit"
        )
    if mode in ("RGBA", "LA", "PA", "RGBa", "La") or "transparency" in image.info:
        layer = image.convert("RGBA")
        white = Image.new("RGBA", layer.size, (255, 255, 255, 255))
        return Image.alpha_composite(white, layer).convert("RGB")
    return image.convert("RGB") if mode != "RGB" else image.copy()


def _from_sixteen_bits(values: np.ndarray) -> Image.Image:
    grey = ((values.astype(np.uint32) + 128) // 257).astype(np.uint8)
    return Image.fromarray(grey).convert("RGB")


def _reason(error: Exception) -> str:
    return str(error) or type(error).__name__
