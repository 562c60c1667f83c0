"""Reading a host's checkpoint through transformers: no remote code, no pickle, nothing missing."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from typing import Any, Literal

import torch
from transformers import (
    AutoImageProcessor,
    AutoModelForImageTextToText,
    AutoTokenizer,
    PreTrainedConfig,
)
from transformers.utils import cached_file

from chiasm.core.config import lookup
from chiasm.core.errors import CheckpointError, ConfigError
from chiasm.language.hosts import HOSTS, family_of

Attention = Literal["sdpa", "eager", "flash_attention_2"]


def load_model(name: str, *, dtype: torch.dtype, revision: str | None, attention: Attention) -> Any:
    """Load the weights of a host.

    Args:
        name: A directory or a name on the hub.
        dtype: Type of the weights in memory.
        revision: Branch, tag or commit on the hub.
        attention: The attention implementation.

    Raises:
        CheckpointError: There is no such checkpoint, it is no safetensors checkpoint, or weights
            are missing or left over.
        ConfigError: The attention implementation cannot be used here.
        UnknownNameError: The checkpoint is of a family that has no adapter.
    """
    _check_attention(attention)
    lookup(HOSTS, _model_type(name, revision), "host model type")
    try:
        model, report = AutoModelForImageTextToText.from_pretrained(
            name,
            revision=revision,
            dtype=dtype,
            attn_implementation=attention,
            trust_remote_code=False,
            use_safetensors=True,
            output_loading_info=True,
        )
    except OSError as error:
        raise CheckpointError(
            f"the weights of the host {name!r} cannot be read: {error} Only safetensors are read; "
            "convert other formats first"
        ) from error
    faults = {kind: sorted(map(str, report[kind])) for kind in _FAULTS if report[kind]}
    if faults:
        told = "; ".join(
            f"{len(keys)} {kind.replace('_', ' ')} ({', '.join(keys[:3])})"
            for kind, keys in faults.items()
        )
        raise CheckpointError(
            f"the checkpoint {name!r} does not fit its own configuration: {told}; the host would "
            "run with random or ignored weights"
        )
    return model.eval()


_FAULTS = ("missing_keys", "unexpected_keys", "mismatched_keys")


def load_tokenizer(name: str, *, revision: str | None) -> Any:
    """Load the tokenizer with its chat template.

    Raises:
        CheckpointError: There is no tokenizer.
    """
    try:
        tokenizer = AutoTokenizer.from_pretrained(name, revision=revision, trust_remote_code=False)
    except (OSError, ValueError) as error:
        raise CheckpointError(f"the tokenizer of {name!r} cannot be read: {error}") from error
    if tokenizer.chat_template is None:
        # Older multimodal checkpoints keep the template beside the processor.
        found = cached_file(
            name,
            "chat_template.json",
            revision=revision,
            _raise_exceptions_for_missing_entries=False,
        )
        if found is not None:
            stored = json.loads(Path(found).read_text(encoding="utf-8"))
            tokenizer.chat_template = stored["chat_template"]
    return tokenizer


def load_image_processor(name: str, *, revision: str | None) -> Any:
    """Load the image processor.

    Raises:
        CheckpointError: There is none.
    """
    try:
        return AutoImageProcessor.from_pretrained(name, revision=revision, trust_remote_code=False)
    except (OSError, ValueError) as error:
        raise CheckpointError(f"the image processor of {name!r} cannot be read: {error}") from error


def _model_type(name: str, revision: str | None) -> str:
    """Read the family from the configuration before any of its classes is built."""
    try:
        values, _ = PreTrainedConfig.get_config_dict(name, revision=revision)
    except OSError as error:
        raise CheckpointError(
            f"no host checkpoint at {name!r}: it is neither a directory with a config.json nor a "
            f"name that the hub or the local cache knows ({error})"
        ) from error
    return family_of(values)


def _check_attention(attention: str) -> None:
    known = ("eager", "flash_attention_2", "sdpa")
    if attention not in known:
        raise ConfigError(f"unknown attention {attention!r}; known: {', '.join(known)}")
    if attention == "flash_attention_2" and importlib.util.find_spec("flash_attn") is None:
        raise ConfigError(
            "attention 'flash_attention_2' needs the package flash_attn, which is not installed; "
            "use 'sdpa', the default, or install flash-attn for this torch"
        )
