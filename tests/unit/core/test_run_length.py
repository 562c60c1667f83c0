"""Run-length masks: what is written is read again, as the COCO API reads and writes it."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from pycocotools import mask as coco

from chiasm.core.errors import InputError
from chiasm.core.run_length import decode_run_length, encode_run_length

# Decoding in pycocotools calls numpy in the way of numpy 1.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")

MASKS = arrays.arrays(
    np.bool_, st.tuples(st.integers(1, 19), st.integers(1, 23)), elements=st.booleans()
)


@settings(max_examples=200, deadline=None)
@given(MASKS)
def test_a_round_trip_changes_nothing(mask: np.ndarray) -> None:
    code = encode_run_length(mask)
    assert code == {
        "size": list(mask.shape),
        "counts": coco.encode(np.asfortranarray(mask, np.uint8))["counts"].decode(),
    }
    assert np.array_equal(decode_run_length(code), mask)


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 2**32), st.integers(1, 300), st.integers(1, 300), st.integers(1, 4000))
def test_long_runs_and_sudden_changes_of_length(
    seed: int, height: int, width: int, run: int
) -> None:
    rng = np.random.default_rng(seed)
    edges = rng.integers(0, height * width + 1, 1 + height * width // run)
    flat = np.zeros(height * width, bool)
    for edge in edges:
        flat[edge:] ^= True
    mask = flat.reshape(width, height).T
    code = encode_run_length(mask)
    assert code["counts"] == coco.encode(np.asfortranarray(mask, np.uint8))["counts"].decode()
    assert np.array_equal(decode_run_length(code), mask)
    assert np.array_equal(coco.decode({**code}).astype(bool), mask)


@pytest.mark.parametrize(
    ("code", "words"),
    [
        (
            {"size": [5, 7], "counts": [5, 6]},
            "run lengths add up to 11 pixels .* 5 x 7 asks for 35",
        ),
        ({"size": [5], "counts": [5]}, r"m: run-length size \[5\]; allowed: \[height, width\]"),
        ({"size": "57", "counts": [5]}, "run-length size '57'"),
        ({"size": [5, 7.5], "counts": [5]}, "two whole numbers above 0"),
        ({"size": [0, 7], "counts": []}, "two whole numbers above 0"),
        ({"size": [True, 7], "counts": [7]}, "two whole numbers above 0"),
        ({"size": [5, 7], "counts": [5, 30.0]}, "counts of type list are not allowed"),
        ({"size": [5, 7], "counts": {"a": 1}}, "counts of type dict are not allowed; allowed: a"),
        ({"size": [5, 7], "counts": None}, "counts of type NoneType"),
        ({"size": [5, 7]}, r"keys \['size'\]"),
    ],
)
def test_what_is_no_run_length_mask_is_named(code: dict[str, Any], words: str) -> None:
    with pytest.raises(InputError, match=words):
        decode_run_length(code, "m")


@settings(max_examples=200, deadline=None)
@given(st.text(st.sampled_from([chr(code) for code in range(40, 120)]), max_size=12))
def test_any_text_is_a_mask_of_its_size_or_refused(text: str) -> None:
    try:
        mask = decode_run_length({"size": [5, 7], "counts": text})
    except InputError:
        return
    assert mask.shape == (5, 7) and mask.dtype == np.bool_


@pytest.mark.parametrize("mask", [np.zeros((3, 5)), np.zeros(5, bool), np.zeros((0, 5), bool)])
def test_only_bool_pixels_are_encoded(mask: np.ndarray) -> None:
    with pytest.raises(InputError, match=r"cannot be encoded; give bool \(height, width\)"):
        encode_run_length(mask)
