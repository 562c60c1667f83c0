"""Cached features: a frozen encoder reads each image once, and later calls read a file.

A cache that does not notice that the weights or the preprocessing changed gives wrong results
without a word. So the name of an entry is a hash of everything that decides its content, weights
that change are noticed, and now and then an entry is computed again and compared.
"""

from __future__ import annotations

import hashlib
import os
import random
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from chiasm.core.errors import CheckpointError, ConfigError
from chiasm.core.grid import ImageGeometry
from chiasm.core.protocols import EncoderTransform
from chiasm.core.tokens import VisualTokens
from chiasm.encoders.fingerprint import fingerprint
from chiasm.encoders.protocol import Encoder, as_modules
from chiasm.encoders.running import can_learn

_TOLERANCES = {torch.float32: 1e-4, torch.bfloat16: 3e-2, torch.float16: 4e-3}
"""Relative distance at which a recomputed entry counts as changed. Sums run in another order in
another batch: 4e-7 measured for a tiny tower in float32."""


class FeatureCache:
    """A directory of features, one safetensors file an image.

    Several processes may share it: a file is written under a name of its own and then renamed.

    Args:
        directory: Where the files lie; made on first writing.
    """

    def __init__(self, directory: Path | str) -> None:
        self.directory = Path(directory)

    def load(self, key: str) -> Tensor | None:
        """Return the features float (tokens, width) of a key, or None.

        Raises:
            CheckpointError: The file is damaged.
        """
        path = self._path(key)
        if not path.exists():
            return None
        try:
            return load_file(path)["features"]
        except (SafetensorError, KeyError, OSError) as error:
            raise CheckpointError(
                f"cached features {path} cannot be read ({error}); delete the file, it will be "
                "written again"
            ) from error

    def store(self, key: str, features: Tensor) -> None:
        """Write the features of a key."""
        path = self._path(key)
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_name(f"{path.name}.{os.getpid()}")
        save_file({"features": features.detach().cpu().contiguous()}, temporary)
        temporary.replace(path)

    def _path(self, key: str) -> Path:
        return self.directory / key[:2] / f"{key}.safetensors"


class CachedEncoder(nn.Module):
    """A frozen encoder whose features are kept on disk; used like the encoder itself.

    An entry is named by the sha256 of the prepared image's bytes, the encoder's description
    (preprocessing, layer, pooling), the hash of its weights, their type and the geometry.

    Args:
        encoder: The encoder; its parameters must be frozen when gradients are on.
        cache: Where features are kept.
        recheck: One in this many cached entries is computed again and compared; 0 never.
        seed: Seed of the choice of these entries.

    Attributes:
        hits: Entries read from the cache so far.
        misses: Entries computed and written so far.
        rechecked: Entries computed again so far.
    """

    def __init__(
        self, encoder: Encoder, cache: FeatureCache, *, recheck: int = 1000, seed: int = 0
    ) -> None:
        super().__init__()
        self.encoder = as_modules({"cached": encoder})["cached"]
        self._encoder = (encoder,)
        self._cache = cache
        self._recheck = recheck
        self._choice = random.Random(seed)
        self._weights = ""
        self._versions = -1
        self.hits = self.misses = self.rechecked = 0

    @property
    def width(self) -> int:
        """Width of a token."""
        return self._encoder[0].width

    @property
    def transform(self) -> EncoderTransform:
        """The encoder's own preprocessing."""
        return self._encoder[0].transform

    @property
    def pretrained(self) -> bool:
        """Whether a checkpoint holds the weights."""
        return self._encoder[0].pretrained

    @property
    def identity(self) -> Mapping[str, Any]:
        """The identity of the encoder."""
        return self._encoder[0].identity

    @property
    def description(self) -> str:
        """The description of the encoder."""
        return self._encoder[0].description

    def encode(self, images: Sequence[Tensor], geometries: Sequence[ImageGeometry]) -> VisualTokens:
        """Return cached features, computing those that are not there yet.

        Raises:
            ConfigError: The encoder, or an image, could learn.
            CheckpointError: A rechecked entry is not what the encoder says now.
        """
        if can_learn(self.encoder, images):
            raise ConfigError(
                "an encoder with cached features cannot train: freeze it, or turn the cache off"
            )
        pairs = list(zip(images, geometries, strict=True))
        keys = [self._key(image, geometry) for image, geometry in pairs]
        found = {key: self._cache.load(key) for key in keys}
        missing = [index for index, key in enumerate(keys) if found[key] is None]
        again = [i for i, key in enumerate(keys) if found[key] is not None and self._chosen()]
        wanted = missing + again
        self.hits += len(keys) - len(missing)
        if wanted:
            computed = self._encoder[0].encode(
                [images[index] for index in wanted], [geometries[index] for index in wanted]
            )
            for index, features in zip(wanted, computed.rows(), strict=True):
                stored = found[keys[index]]
                if index in again and stored is not None:
                    self._compare(keys[index], stored, features)
                else:
                    self._cache.store(keys[index], features)
                    found[keys[index]] = features
            self.misses += len(missing)
            self.rechecked += len(again)
        device = images[0].device
        rows = [entry.to(device) for key in keys if (entry := found[key]) is not None]
        return VisualTokens.from_images(rows, geometries)

    def _chosen(self) -> bool:
        return self._recheck > 0 and self._choice.randrange(self._recheck) == 0

    def _compare(self, key: str, stored: Tensor, computed: Tensor) -> None:
        computed = computed.to(stored)
        if stored.shape == computed.shape:
            distance = (stored.float() - computed.float()).norm() / computed.float().norm()
            if distance <= _TOLERANCES.get(stored.dtype, 1e-4):
                return
        raise CheckpointError(
            f"cached features {key[:12]} in {self._cache.directory} are not what the encoder "
            "computes now; delete the cache directory and run again"
        )

    def _key(self, image: Tensor, geometry: ImageGeometry) -> str:
        pixels = image.detach().cpu().contiguous()
        text = f"{self.description} {self._current_weights()} {geometry} {tuple(pixels.shape)}"
        digest = hashlib.sha256(text.encode())
        digest.update(pixels.view(torch.uint8).numpy().tobytes())
        return digest.hexdigest()

    def _current_weights(self) -> str:
        """Return the hash of the weights, taken anew when one of them was written to."""
        # Every write in place, by an optimizer or a loader, raises a tensor's version.
        versions = sum(value._version for value in self.encoder.state_dict(keep_vars=True).values())
        if versions != self._versions:
            self._weights, self._versions = fingerprint(self.encoder), versions
        return self._weights
