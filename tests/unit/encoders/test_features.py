"""Cached features: the same tokens, and no stale ones."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from chiasm.core.errors import CheckpointError, ConfigError
from chiasm.encoders.features import CachedEncoder, FeatureCache
from chiasm.encoders.fingerprint import fingerprint
from tests.tiny import picture
from tests.tiny_eyes import stretched, tiny_encoder

GEOMETRIES = [stretched(61, 83, 3, 5), stretched(97, 43, 7, 2)]


def frozen(**settings: Any) -> Any:
    return tiny_encoder("dinov2", **settings).requires_grad_(False)


def prepared(encoder: Any) -> list[Tensor]:
    images = [picture(61, 83, 1), picture(97, 43, 2)]
    return [encoder.transform(i, g) for i, g in zip(images, GEOMETRIES, strict=True)]


def files(directory: Path) -> list[Path]:
    return sorted(directory.rglob("*.safetensors*"))


def test_cache_and_no_cache_give_the_same_tokens(tmp_path: Path) -> None:
    encoder = frozen()
    images = prepared(encoder)
    expected = encoder.encode(images, GEOMETRIES)
    first = CachedEncoder(encoder, FeatureCache(tmp_path))
    second = CachedEncoder(frozen(), FeatureCache(tmp_path))
    for cached in (first, second):
        found = cached.encode(images, GEOMETRIES)
        assert torch.equal(found.features, expected.features)
        assert torch.equal(found.cells, expected.cells)
    assert (first.hits, first.misses) == (0, 2)
    assert (second.hits, second.misses) == (2, 0)
    # In another batch, in another order.
    again = second.encode(images[1:], GEOMETRIES[1:])
    assert torch.equal(again.features[0], expected.rows()[1])
    assert second.width == encoder.width
    assert second.transform == encoder.transform
    assert second.identity == encoder.identity
    assert not second.pretrained
    assert len(files(tmp_path)) == 2


def test_reads_really_come_from_the_files(tmp_path: Path) -> None:
    encoder = frozen()
    cached = CachedEncoder(encoder, FeatureCache(tmp_path), recheck=0)
    images = prepared(encoder)
    cached.encode(images, GEOMETRIES)
    for path in files(tmp_path):
        save_file({"features": load_file(path)["features"] * 0 + 7}, path)
    assert (cached.encode(images, GEOMETRIES).rows()[0] == 7).all()


@pytest.mark.parametrize("change", ["pixels", "geometry", "weights", "pooling", "layer"])
def test_whatever_decides_a_token_is_in_the_name(change: str, tmp_path: Path) -> None:
    settings: dict[str, Any] = {"oversample": 2}
    encoder = frozen(**settings)
    CachedEncoder(encoder, FeatureCache(tmp_path)).encode(prepared(encoder), GEOMETRIES)
    geometries = list(GEOMETRIES)
    other = {
        "weights": lambda: frozen(seed=1, **settings),
        "pooling": lambda: frozen(pooling="unshuffle", **settings),
        "layer": lambda: frozen(layer=-2, **settings),
    }.get(change, lambda: frozen(**settings))()
    images = prepared(other)
    if change == "pixels":
        images = [image + 1e-3 for image in images]
    if change == "geometry":
        geometries = [stretched(122, 166, 3, 5), stretched(194, 86, 7, 2)]
    cached = CachedEncoder(other, FeatureCache(tmp_path))
    cached.encode(images, geometries)
    assert (cached.hits, cached.misses) == (0, 2)


def test_weights_that_change_under_the_cache_are_noticed(tmp_path: Path) -> None:
    encoder = frozen()
    cached = CachedEncoder(encoder, FeatureCache(tmp_path))
    images = prepared(encoder)
    before = cached.encode(images, GEOMETRIES)
    encoder.load_state_dict(frozen(seed=1).state_dict())
    after = cached.encode(images, GEOMETRIES)
    assert cached.hits == 0
    assert not torch.equal(before.features, after.features)


def test_a_stale_entry_is_caught_by_the_recheck(tmp_path: Path) -> None:
    encoder = frozen()
    images = prepared(encoder)
    cached = CachedEncoder(encoder, FeatureCache(tmp_path), recheck=1)
    cached.encode(images, GEOMETRIES)
    cached.encode(images, GEOMETRIES)
    assert cached.rechecked == 2
    path = files(tmp_path)[0]
    save_file({"features": load_file(path)["features"] * 1.01}, path)
    with pytest.raises(CheckpointError, match="not what the encoder computes now; delete"):
        cached.encode(images, GEOMETRIES)


def test_one_in_so_many_entries_is_rechecked(tmp_path: Path) -> None:
    encoder = frozen()
    images = prepared(encoder)[:1]
    cached = CachedEncoder(encoder, FeatureCache(tmp_path), recheck=5)
    for _ in range(101):
        cached.encode(images, GEOMETRIES[:1])
    assert 10 <= cached.rechecked <= 32


def test_an_encoder_that_learns_is_refused(tmp_path: Path) -> None:
    encoder = tiny_encoder("dinov2")
    cached = CachedEncoder(encoder, FeatureCache(tmp_path))
    with pytest.raises(ConfigError, match="cannot train: freeze it, or turn the cache off"):
        cached.encode(prepared(encoder), GEOMETRIES)
    with torch.no_grad():
        cached.encode(prepared(encoder), GEOMETRIES)


def test_a_damaged_file_says_what_to_do(tmp_path: Path) -> None:
    encoder = frozen()
    cached = CachedEncoder(encoder, FeatureCache(tmp_path))
    cached.encode(prepared(encoder), GEOMETRIES)
    files(tmp_path)[0].write_bytes(b"\x00" * 11)
    with pytest.raises(CheckpointError, match=r"cannot be read.*delete the file"):
        cached.encode(prepared(encoder), GEOMETRIES)


def test_bfloat16_features_come_back_as_they_were(tmp_path: Path) -> None:
    encoder = frozen(dtype="bfloat16")
    cached = CachedEncoder(encoder, FeatureCache(tmp_path), recheck=1)
    images = prepared(encoder)
    first, second = (cached.encode(images, GEOMETRIES) for _ in range(2))
    assert second.features.dtype == torch.bfloat16
    assert torch.equal(first.features, second.features)


def test_a_fingerprint_is_of_names_shapes_types_and_values() -> None:
    base = torch.nn.Linear(3, 5)
    prints = {fingerprint(base)}
    for change in (
        torch.nn.Linear(3, 5),
        torch.nn.Linear(5, 3),
        torch.nn.Linear(3, 5, bias=False),
        torch.nn.Sequential(base),
        torch.nn.Linear(3, 5, dtype=torch.bfloat16),
    ):
        prints.add(fingerprint(change))
    assert len(prints) == 6
    assert fingerprint(base) == fingerprint(base)


def test_rechecks_leave_the_global_generator_alone(tmp_path: Path) -> None:
    encoder = frozen()
    images = prepared(encoder)
    cached = CachedEncoder(encoder, FeatureCache(tmp_path), recheck=2)
    state = torch.get_rng_state()
    for _ in range(3):
        cached.encode(images, GEOMETRIES)
    assert torch.equal(state, torch.get_rng_state())
