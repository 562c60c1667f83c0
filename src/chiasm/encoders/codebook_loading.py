"""VQ-VAEs of transformers' Janus: from values, from checkpoints, on the meta device, to disk."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from huggingface_hub.errors import StrictDataclassError
from torch import Tensor
from transformers.configuration_utils import PreTrainedConfig
from transformers.models.janus.configuration_janus import JanusVQVAEConfig
from transformers.models.janus.modeling_janus import JanusVQVAE

from chiasm.core.errors import CheckpointError, ConfigError

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}

GROUPS = 32
"""Channels that the library's normalisation divides into groups must be a multiple of this."""

_WHOLE = "janus"
_ROW_NAME = "quantize.embedding.weight"


def initialise_vqvae(architecture: Mapping[str, Any], dtype: torch.dtype) -> JanusVQVAE:
    """Build a VQ-VAE with random weights.

    Raises:
        ConfigError: A value is unknown to `JanusVQVAEConfig`, or impossible; all that are unknown
            at once.
    """
    try:
        return JanusVQVAE(_read_architecture(architecture)).to(dtype)
    except (StrictDataclassError, ValueError, TypeError, RuntimeError) as error:
        raise ConfigError(f"architecture of the codebook: {_first(error)}") from error


def load_vqvae(path: str, revision: str | None, dtype: torch.dtype) -> JanusVQVAE:
    """Load a VQ-VAE, alone or out of a whole Janus.

    Raises:
        CheckpointError: It cannot be read, is of another kind, or its weights are not those of its
            configuration: missing, unexpected or of another shape.
    """
    kind = _kind_of(path, revision)
    mapping = {r"^model\.vqmodel\.": ""} if kind == _WHOLE else None
    try:
        model, report = JanusVQVAE.from_pretrained(
            path,
            config=JanusVQVAEConfig.from_pretrained(path, revision=revision),
            dtype=dtype,
            revision=revision,
            use_safetensors=True,
            output_loading_info=True,
            key_mapping=mapping,
            # Told by name below, which the library's own error does not do.
            ignore_mismatched_sizes=True,
        )
    except (OSError, ValueError, RuntimeError) as error:
        raise CheckpointError(
            f"codebook: the weights of {path!r} cannot be read ({_first(error)}); they must be "
            "safetensors of the architecture in its config.json"
        ) from error
    faults = [f"missing: {name}" for name in sorted(report["missing_keys"])]
    faults += [
        f"{name}: {tuple(found)} in the file, {tuple(asked)} by its config.json"
        for name, found, asked in sorted(report["mismatched_keys"])
    ]
    if kind != _WHOLE:
        faults += [f"unexpected: {name}" for name in sorted(report["unexpected_keys"])]
    if faults:
        listed = "\n".join(f"  - {fault}" for fault in faults[:20])
        raise CheckpointError(
            f"codebook: {path!r} has not the weights of its config.json, {len(faults)} differ; it "
            f"would run on random numbers. Use a complete checkpoint\n{listed}"
        )
    return model


def outline_vqvae(
    path: str | None, revision: str | None, architecture: Mapping[str, Any], dtype: torch.dtype
) -> JanusVQVAE:
    """Build a VQ-VAE without weights, on the meta device.

    Raises:
        CheckpointError: The checkpoint's `config.json` cannot be read, or is of another kind.
        ConfigError: As for `initialise_vqvae`.
    """
    with torch.device("meta"):
        if path is None:
            return initialise_vqvae(architecture, dtype)
        _kind_of(path, revision)
        return JanusVQVAE(JanusVQVAEConfig.from_pretrained(path, revision=revision)).to(dtype)


def save_vqvae(model: JanusVQVAE, rows: Tensor, directory: Path) -> None:
    """Write a checkpoint of transformers.

    Args:
        model: The VQ-VAE.
        rows: float (codes, width), written in place of its codebook.
        directory: Made if it is not there.
    """
    state = {name: tensor.detach().contiguous() for name, tensor in model.state_dict().items()}
    state[_ROW_NAME] = rows.detach().to(state[_ROW_NAME].dtype).contiguous()
    model.save_pretrained(directory, state_dict=state)


def _read_architecture(architecture: Mapping[str, Any]) -> JanusVQVAEConfig:
    known = JanusVQVAEConfig().to_dict()
    faults = [f"{name}: unknown to JanusVQVAEConfig" for name in architecture if name not in known]
    if faults:
        raise ConfigError("architecture of the codebook", faults)
    config = JanusVQVAEConfig(**architecture)
    channels = [config.base_channels * factor for factor in (1, *config.channel_multiplier)]
    uneven = sorted({count for count in channels if count % GROUPS or count <= 0})
    if uneven:
        raise ConfigError(
            "architecture of the codebook",
            [
                f"base_channels {config.base_channels} times channel_multiplier "
                f"{list(config.channel_multiplier)} gives {uneven} channels; each must be a "
                f"multiple of {GROUPS}, the groups of the library's normalisation"
            ],
        )
    if config.double_latent:
        raise ConfigError(
            "architecture of the codebook",
            ["double_latent: true; only false, for the library quantises one latent a place"],
        )
    return config


def _kind_of(path: str, revision: str | None) -> str:
    kinds = (JanusVQVAEConfig.model_type, _WHOLE)
    try:
        values, _ = PreTrainedConfig.get_config_dict(path, revision=revision)
    except (OSError, ValueError) as error:
        raise CheckpointError(
            f"codebook: no checkpoint can be read from {path!r} ({_first(error)}); give a local "
            "directory that holds config.json and model.safetensors, or a hub name"
        ) from error
    kind = str(values.get("model_type"))
    if kind not in kinds:
        raise CheckpointError(
            f"codebook: {path!r} is of the model type {kind!r}; it reads {', '.join(kinds)}"
        )
    return kind


def _first(error: BaseException) -> str:
    return str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
