"""What a family of models asks of an extra encoder beyond `VisionEncoder`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

from torch import nn

from chiasm.core.errors import ConfigError
from chiasm.core.protocols import VisionEncoder


class Encoder(VisionEncoder, Protocol):
    """A vision encoder that is an `nn.Module` and says where its weights come from."""

    @property
    def pretrained(self) -> bool:
        """Whether a checkpoint holds the weights; if not, they must be saved with the model."""
        ...

    @property
    def identity(self) -> Mapping[str, Any]:
        """Name, path and revision of the checkpoint, and a hash of the weights as built."""
        ...

    @property
    def description(self) -> str:
        """What decides the tokens besides weights and image: preprocessing, layer, pooling."""
        ...


def as_modules(encoders: Mapping[str, Encoder]) -> dict[str, nn.Module]:
    """Return encoders as the modules that they are.

    Raises:
        ConfigError: One of them is no `nn.Module`, so that its weights could not be seen.
    """
    modules: dict[str, nn.Module] = {}
    for name, encoder in encoders.items():
        if not isinstance(encoder, nn.Module):
            raise ConfigError(
                f"encoder {name!r} is a {type(encoder).__name__} and no torch.nn.Module; derive "
                "its class from nn.Module, so that its weights move, train and are saved"
            )
        modules[name] = encoder
    return modules
