"""The Segment Anything models of transformers, as three parts and what lies between them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
import transformers
from pydantic import model_validator
from torch import nn
from transformers.image_processing_base import ImageProcessingMixin

from chiasm.core.config import Config, lookup
from chiasm.core.errors import CheckpointError, ConfigError
from chiasm.heads.sam_images import SamTransform
from chiasm.layers.patches import start_from_cosines

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}

_MEAN, _DEVIATION = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


@dataclass(frozen=True)
class _Kind:
    """A generation of the model.

    Attributes:
        config: Its configuration class.
        model: Its model class.
        stretch: Whether images are stretched to a square; if not, they are padded to it.
    """

    config: type[Any]
    model: type[Any]
    stretch: bool


KINDS: dict[str, _Kind] = {
    "sam": _Kind(transformers.SamConfig, transformers.SamModel, stretch=False),
    "sam2": _Kind(transformers.Sam2Config, transformers.Sam2Model, stretch=True),
    # Published checkpoints of SAM 2 carry a memory for video, which pictures leave aside.
    "sam2_video": _Kind(transformers.Sam2Config, transformers.Sam2Model, stretch=True),
}
"""`model_type` of a checkpoint to its classes."""


class SamConfig(Config):
    """SAM (Kirillov et al., 2023, arXiv:2304.02643) or SAM 2 (Ravi et al., 2024, arXiv:2408.00714).

    Attributes:
        path: Local directory or hub name of a checkpoint in the form of transformers.
        revision: Branch, tag or commit on the hub.
        architecture: Values of the library's configuration class, for random weights: a
            `model_type` (`sam` or `sam2`; `sam` if absent), `vision_config`,
            `prompt_encoder_config` and `mask_decoder_config`.
        patch_basis: How the patch embedding of random weights starts: `random`, or as the
            frequencies of a patch (`cosine`), which learns from few pictures what a patch holds;
            see `layers.patches`.
        dtype: Type of the weights.
    """

    path: str | None = None
    revision: str | None = None
    architecture: dict[str, Any] | None = None
    patch_basis: Literal["random", "cosine"] = "random"
    dtype: str = "float32"

    @model_validator(mode="after")
    def _one_source(self) -> SamConfig:
        if (self.path is None) == (self.architecture is None):
            raise ValueError(
                "give either `path` (a checkpoint) or `architecture` (random weights), not both "
                "and not neither"
            )
        if self.patch_basis == "cosine" and (self.architecture or {}).get("model_type") == "sam2":
            raise ValueError("patch_basis `cosine` is for `sam`; SAM 2 reads overlapping patches")
        if self.dtype not in DTYPES:
            raise ValueError(f"dtype {self.dtype!r} is not one of {', '.join(DTYPES)}")
        return self

    def build(self) -> LoadedSam:
        """Load or initialise the model.

        Raises:
            CheckpointError: The checkpoint cannot be read, is no SAM, or lacks weights.
            ConfigError: The architecture names an unknown value or model type.
        """
        if self.path is not None:
            return _load(self.path, self.revision, DTYPES[self.dtype])
        return _initialise(self.architecture or {}, DTYPES[self.dtype], self.patch_basis)


def outline_sam(config: SamConfig) -> LoadedSam:
    """Build a model without weights, on the meta device; a checkpoint needs its `config.json` only.

    Raises:
        CheckpointError: There is no such file, or it is of no SAM.
        ConfigError: The architecture names an unknown value or model type.
    """
    dtype = DTYPES[config.dtype]
    with torch.device("meta"):
        if config.path is None:
            return _initialise(config.architecture or {}, dtype, "random")
        name, kind = _kind_of(config.path, config.revision)
        model = kind.model(kind.config.from_pretrained(config.path, revision=config.revision))
        return _finish(model.to(dtype), kind, (_MEAN, _DEVIATION), {"name": name})


@dataclass(frozen=True)
class LoadedSam:
    """A model with all that its user needs to know.

    Attributes:
        model: `SamModel` or `Sam2Model`. What training never moves (the random positions) are
            buffers of the prompt encoder.
        transform: Its preprocessing.
        source: `name`, and for a checkpoint `path` and `revision`.
    """

    model: Any
    transform: SamTransform
    source: Mapping[str, str]


def save_sam(model: Any, transform: SamTransform, directory: Path) -> None:
    """Write a model as a checkpoint that `SamConfig.path` and transformers can read."""
    state = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    model.save_pretrained(directory, state_dict=state)
    values = {"image_mean": transform.mean, "image_std": transform.deviation}
    text = json.dumps(values, indent=2) + "\n"
    (directory / "preprocessor_config.json").write_text(text, encoding="utf-8")


def _initialise(architecture: Mapping[str, Any], dtype: torch.dtype, patch_basis: str) -> LoadedSam:
    values = dict(architecture)
    name = values.pop("model_type", "sam")
    kind = lookup(KINDS, name, "model_type of a mask refiner")
    _check_values(values, kind)
    try:
        config = kind.config(**values)
        if not kind.stretch:
            _mend_scales(config.vision_config, values.get("vision_config", {}))
        model = kind.model(config)
        if patch_basis == "cosine":
            # The basis is of patches over frames; a picture is one frame.
            start_from_cosines(model.vision_encoder.patch_embed.projection.weight[:, :, None])
        model = model.to(dtype)
    except (ValueError, TypeError) as error:
        raise ConfigError(f"architecture of the mask refiner: {_first(error)}") from error
    return _finish(model, kind, (_MEAN, _DEVIATION), {"name": name})


def _kind_of(path: str, revision: str | None) -> tuple[str, _Kind]:
    try:
        name = transformers.AutoConfig.from_pretrained(path, revision=revision).model_type
    except (OSError, ValueError) as error:
        raise CheckpointError(
            f"mask refiner: no checkpoint can be read from {path!r} ({_first(error)}); give a "
            "local directory that holds config.json and model.safetensors, or a hub name"
        ) from error
    if name not in KINDS:
        raise CheckpointError(
            f"mask refiner: {path!r} is of the model type {name!r}; it reads {', '.join(KINDS)}"
        )
    return name, KINDS[name]


def _load(path: str, revision: str | None, dtype: torch.dtype) -> LoadedSam:
    name, kind = _kind_of(path, revision)
    try:
        model, report = kind.model.from_pretrained(
            path, dtype=dtype, revision=revision, use_safetensors=True, output_loading_info=True
        )
    except (OSError, ValueError, RuntimeError) as error:
        raise CheckpointError(
            f"mask refiner: the weights of {path!r} cannot be read ({_first(error)}); they must be "
            "safetensors of the architecture in its config.json"
        ) from error
    if missing := sorted(report["missing_keys"]):
        raise CheckpointError(
            f"mask refiner: {path!r} lacks {len(missing)} weights, first {missing[0]!r}; it would "
            "run on random numbers. Use a complete checkpoint"
        )
    source = {"name": name, "path": path, "revision": revision or ""}
    return _finish(model, kind, _colours(path, revision), source)


def _finish(model: Any, kind: _Kind, colours: Any, source: Mapping[str, str]) -> LoadedSam:
    # SAM's random positions are constants; the library keeps them as parameters, twice.
    positions = model.prompt_encoder.shared_embedding
    _make_buffer(positions, "positional_embedding")
    model.shared_image_embedding = positions
    if kind.stretch:
        _make_buffer(model, "no_memory_embedding")
    side = model.prompt_encoder.input_image_size
    if not isinstance(side, int):
        raise ConfigError(f"mask refiner: image_size {side!r}; only squares, as one whole number")
    transform = SamTransform(
        side=side,
        mean=tuple(colours[0]),
        deviation=tuple(colours[1]),
        stretch=kind.stretch,
    )
    return LoadedSam(model, transform, source)


def _mend_scales(config: Any, given: Mapping[str, Any]) -> None:
    """Set what SAM's configuration class leaves unfit for training from random weights.

    It spreads random positions by half the width, where published models have 1 (near places must
    look alike), and vision weights by 1e-10.
    """
    config.scale = 1.0
    config.initializer_range = given.get("initializer_range", 0.02)


def _make_buffer(module: nn.Module, name: str) -> None:
    tensor = module.get_parameter(name).detach() if name in module._parameters else None
    if tensor is not None:
        delattr(module, name)
        module.register_buffer(name, tensor)


def _check_values(values: Mapping[str, Any], kind: _Kind) -> None:
    known = kind.config().to_dict()
    faults = []
    for name, value in values.items():
        if name not in known:
            faults.append(f"{name}: unknown to {kind.config.__name__}")
        elif isinstance(value, Mapping) and isinstance(known[name], Mapping):
            faults += [f"{name}.{inner}: unknown" for inner in value if inner not in known[name]]
    if faults:
        raise ConfigError("architecture of the mask refiner", faults)


def _colours(path: str, revision: str | None) -> Any:
    """Read mean and deviation from the checkpoint; SAM's own where it has none."""
    try:
        values, _ = ImageProcessingMixin.get_image_processor_dict(path, revision=revision)
    except OSError:
        values = {}
    return values.get("image_mean", _MEAN), values.get("image_std", _DEVIATION)


def _first(error: BaseException) -> str:
    return str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
