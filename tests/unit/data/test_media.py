"""Images from every kind of source and of every mode, and files that are broken."""

from __future__ import annotations

import base64
import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from chiasm.core.errors import MediaError
from chiasm.data import media
from chiasm.data.media import load_image
from tests.tiny import picture


def encoded(image: Image.Image, form: str = "PNG", **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, form, **options)  # type: ignore[arg-type]
    return buffer.getvalue()


def pixels(image: Image.Image) -> np.ndarray:
    assert image.mode == "RGB"
    return np.asarray(image)


def test_all_sources_of_a_picture_give_the_same_pixels(tmp_path: Path) -> None:
    image = picture(31, 43)
    content = encoded(image)
    path = tmp_path / "a b%20é.png"
    path.write_bytes(content)
    code = base64.b64encode(content).decode()
    sources = [
        path,
        str(path),
        path.as_uri(),
        content,
        image,
        np.asarray(image),
        f"data:image/png;base64,{code}",
        f"DATA:image/png;BASE64,{code[:50]}\n{code[50:]}",
        f"data:image/png;base64,{code.replace('+', '%2B')}",
        "data:image/png," + "".join(f"%{byte:02x}" for byte in content),
    ]
    for source in sources:
        assert np.array_equal(pixels(load_image(source)), np.asarray(image)), source


def test_the_picture_does_not_share_memory_with_its_source() -> None:
    image = picture(5, 7)
    loaded = load_image(image)
    image.putpixel((0, 0), (1, 2, 3))
    assert loaded.getpixel((0, 0)) != (1, 2, 3)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_rotation_is_applied_to_files_and_to_open_images(orientation: int) -> None:
    image = picture(31, 43)
    exif = Image.Exif()
    exif[0x0112] = orientation
    content = encoded(image, exif=exif)
    loaded = load_image(content)
    assert loaded.size == ((43, 31) if orientation < 5 else (31, 43))
    assert np.array_equal(pixels(loaded), pixels(load_image(Image.open(io.BytesIO(content)))))
    turned = {3: 2, 6: 3, 8: 1}  # counter-clockwise quarter turns
    if orientation in turned:
        expected = np.rot90(np.asarray(image), turned[orientation])
        assert np.array_equal(pixels(loaded), expected)


def test_transparency_is_laid_on_white() -> None:
    image = Image.new("RGBA", (2, 1), (200, 0, 0, 255))
    image.putpixel((1, 0), (0, 0, 0, 0))
    assert pixels(load_image(image)).tolist() == [[[200, 0, 0], [255, 255, 255]]]
    half = Image.new("LA", (1, 1), (0, 127))
    assert pixels(load_image(half)).tolist() == [[[128, 128, 128]]]
    palette = Image.new("P", (2, 1))
    palette.putpalette([10, 20, 30, 40, 50, 60])
    palette.putpixel((1, 0), 1)
    assert pixels(load_image(palette)).tolist() == [[[10, 20, 30], [40, 50, 60]]]
    clear = load_image(encoded(palette, transparency=1))
    assert pixels(clear).tolist() == [[[10, 20, 30], [255, 255, 255]]]
    keyed = load_image(encoded(Image.new("RGB", (1, 1), (9, 8, 7)), transparency=(9, 8, 7)))
    assert pixels(keyed).tolist() == [[[255, 255, 255]]]


def test_sixteen_bit_grey_is_scaled_and_not_clipped() -> None:
    values = np.array([[0, 257, 1000, 32896, 65535]], dtype=np.uint16)
    loaded = load_image(encoded(Image.fromarray(values)))
    assert pixels(loaded)[0, :, 0].tolist() == [0, 1, 4, 128, 255]
    wide = Image.fromarray(values.astype(np.int32))
    assert wide.mode == "I"
    assert np.array_equal(pixels(load_image(wide)), pixels(loaded))


def test_other_modes_are_converted() -> None:
    assert pixels(load_image(Image.new("1", (1, 1), 1))).tolist() == [[[255, 255, 255]]]
    assert pixels(load_image(Image.new("L", (1, 1), 7))).tolist() == [[[7, 7, 7]]]
    cyan = encoded(Image.new("CMYK", (8, 8), (255, 0, 0, 0)), "JPEG")
    red, green, blue = pixels(load_image(cyan))[4, 4].tolist()
    assert red < 20
    assert min(green, blue) > 200
    frames = [Image.new("RGB", (3, 3), color) for color in ("red", "blue")]
    moving = encoded(frames[0], "GIF", save_all=True, append_images=frames[1:])
    assert pixels(load_image(moving))[0, 0].tolist() == [255, 0, 0]


def test_pixels_without_an_agreed_range_are_refused() -> None:
    with pytest.raises(MediaError, match="floating-point"):
        load_image(Image.new("F", (2, 2)))
    with pytest.raises(MediaError, match=r"\[-5, 70000\]"):
        load_image(Image.fromarray(np.array([[-5, 70000]], dtype=np.int32)))


BROKEN = {
    "empty": b"",
    "text": b"not an image at all",
    "header only": encoded(picture(61, 83))[:60],
    "half a PNG": encoded(picture(61, 83))[:4000],
    "half a JPEG": encoded(picture(61, 83), "JPEG")[:900],
    "damaged": encoded(picture(61, 83))[:2000] + b"\x00" * 500 + encoded(picture(61, 83))[2500:],
}


@pytest.mark.parametrize("kind", sorted(BROKEN))
def test_broken_files_are_named(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "broken.png"
    path.write_bytes(BROKEN[kind])
    with pytest.raises(MediaError, match=r"broken\.png: (is empty|is not an image|cannot be)"):
        load_image(path)
    with pytest.raises(MediaError):
        load_image(BROKEN[kind])


def test_missing_files_folders_and_odd_paths_are_named(tmp_path: Path) -> None:
    with pytest.raises(MediaError, match=r"gone\.png: does not exist; correct the path"):
        load_image(tmp_path / "gone.png")
    with pytest.raises(MediaError, match="is a folder"):
        load_image(tmp_path)
    with pytest.raises(MediaError, match="cannot be read"):
        load_image("a\0b.png")
    with pytest.raises(MediaError, match=r"does not exist|cannot be read"):
        load_image("C:\\pictures\\a.png")


@pytest.mark.parametrize("address", ["http://a.b/c.png", "HTTPS://a.b/c.png", "s3://a/b.png"])
def test_network_addresses_are_not_fetched(address: str) -> None:
    with pytest.raises(MediaError, match="not fetched; download the file"):
        load_image(address)


def test_a_file_address_on_another_machine_is_refused() -> None:
    with pytest.raises(MediaError, match="names the machine 'server'"):
        load_image("file://server/a.png")


@pytest.mark.parametrize(
    ("uri", "message"),
    [
        ("data:image/png;base64", "no comma"),
        ("data:image/png;base64,###", "not valid base64"),
        ("data:image/png;base64,", "empty"),
        ("data:text/plain,hello", "not an image"),
    ],
)
def test_wrong_data_uris_say_what_is_wrong(uri: str, message: str) -> None:
    with pytest.raises(MediaError, match=message):
        load_image(uri)


@pytest.mark.parametrize(
    "array",
    [
        np.zeros((4, 5), np.uint8),
        np.zeros((4, 5, 4), np.uint8),
        np.zeros((3, 4, 5), np.uint8),
        np.zeros((4, 5, 3), np.float32),
        np.zeros((0, 5, 3), np.uint8),
    ],
)
def test_arrays_of_another_form_are_refused(array: np.ndarray) -> None:
    with pytest.raises(MediaError, match=r"allowed: uint8 \(height, width, 3\)"):
        load_image(array)


def test_images_that_would_fill_the_memory_are_refused_before_decoding(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    content = encoded(Image.new("1", (9500, 9500)))  # 90 million pixels in a few kilobytes
    assert len(content) < 100_000
    with pytest.raises(MediaError, match=r"9500 x 9500 = 90250000 pixels, at most 89478485"):
        load_image(content)
    with pytest.raises(MediaError, match="make the image smaller"):
        load_image(encoded(Image.new("1", (14000, 14000))))
    monkeypatch.setattr(media, "MAX_PIXELS", 12)
    with pytest.raises(MediaError, match="5 x 3 = 15 pixels"):
        load_image(np.zeros((3, 5, 3), np.uint8))


def test_what_follows_the_end_of_a_png_does_not_matter(tmp_path: Path) -> None:
    picture = Image.new("RGB", (7, 5), (1, 2, 3))
    picture.save(tmp_path / "a.png")
    content = (tmp_path / "a.png").read_bytes()
    (tmp_path / "a.png").write_bytes(content + b"trailing")
    assert load_image(tmp_path / "a.png").tobytes() == picture.tobytes()
    with pytest.raises(MediaError, match=r"image bytes: .*its end is missing"):
        load_image(content[:-12])
