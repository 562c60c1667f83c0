"""From a recipe to a tokenizer of pictures, and how well it draws."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from chiasm.core.samples import Sample
from chiasm.data.picturing import PICTURES
from chiasm.encoders.codebook import Codebook, CodebookConfig
from chiasm.encoders.codebook_loading import DTYPES
from chiasm.encoders.codebook_use import CodebookUse
from chiasm.metrics.pictures import peak_signal_to_noise
from chiasm.models.probes import probing
from chiasm.models.tokenizer import Tokenizer, TokenizerConfig
from chiasm.recipes.places import RECIPE_FILE, tokenizer_folder

BATCH = 16

PICTURES_NUMBER = "psnr"
"""The number that picks the best checkpoint of a tokenizer."""


def build_tokenizer(config: TokenizerConfig, base: Path) -> Tokenizer:
    """Build or load a tokenizer.

    Raises:
        ChiasmError: A checkpoint is missing or does not fit.
    """
    return config.build(open_codebook(config.codebook, base))


def open_codebook(config: CodebookConfig, base: Path) -> Codebook:
    """Load or initialise a codebook.

    A shipped run holds its weights once, beside the folder that names the codebook's sizes; then
    the run is loaded, strictly.

    Args:
        config: Its path may be a shipped name, a run, a directory or a name on the hub.
        base: Folder that relative paths start from.

    Raises:
        ChiasmError: A checkpoint is missing or does not fit.
    """
    # Loading a run builds its model, which comes back here.
    from chiasm.recipes.loading import load_run

    located = located_codebook(config, base)
    if located.path is None:
        return located.build()
    folder = Path(located.path)
    alone = folder.is_dir() and not list(folder.glob("*.safetensors"))
    if alone and (folder.parent / RECIPE_FILE).is_file():
        model = load_run(folder.parent)
        if isinstance(model, Tokenizer):
            return located.checked(model.codebook.to(DTYPES[located.dtype]))
    return located.build()


def located_codebook(config: CodebookConfig, base: Path) -> CodebookConfig:
    """Return a codebook's configuration whose checkpoint is a folder or a name on the hub."""
    if config.path is None:
        return config
    return config.model_copy(update={"path": str(tokenizer_folder(config.path, base))})


def picture_quality(model: Tokenizer, samples: Sequence[Sample]) -> Mapping[str, float]:
    """Return how well a tokenizer draws pictures again.

    Args:
        model: The tokenizer.
        samples: Samples with pictures.

    Returns:
        `psnr`, the mean over pictures in decibels; `codebook_use`, the share of codes that occur
        in these pictures; `perplexity` of the codes; `revived`, how many codes were replaced in
        training so far.
    """
    use = CodebookUse(model.codebook.size)
    found: list[float] = []
    device = next(model.parameters()).device
    with probing(model):
        for start in range(0, len(samples), BATCH):
            batch = model.collator(samples[start : start + BATCH]).to(device)
            named = model(batch).named
            use.add(named["codes"])
            drawn = named[PICTURES].clamp(-1.0, 1.0)
            for one, truth in zip(drawn, batch.targets[PICTURES], strict=True):
                found.append(peak_signal_to_noise(_array(one), _array(truth)))
    return {
        "psnr": sum(found) / max(1, len(found)),
        "codebook_use": use.share,
        "perplexity": use.perplexity,
        "revived": float(model.revived),
    }


def outline_tokenizer(config: TokenizerConfig, base: Path) -> tuple[Codebook, dict[str, int]]:
    """Build a codebook on the meta device, and count what each part computes for one picture.

    Returns:
        The codebook, and by part how many numbers its layers give for one picture; what layers
        give is what their successors keep for the backward pass.
    """
    codebook = located_codebook(config.codebook, base).outline()
    counts = dict.fromkeys(codebook.parts, 0)

    def counting(part: str) -> Any:
        def count(module: nn.Module, inputs: Any, output: Tensor) -> None:
            counts[part] += output.numel()

        return count

    hooks = [
        leaf.register_forward_hook(counting(part))
        for part, module in codebook.parts.items()
        for leaf in module.modules()
        if not list(leaf.children())
    ]
    with torch.device("meta"), torch.no_grad():
        codes = codebook.encode(torch.zeros(1, 3, codebook.side, codebook.side))
        codebook.decode_latents(codes.quantised)
    for hook in hooks:
        hook.remove()
    # Each latent meets each code.
    counts["codes"] += codes.indices.numel() * (codebook.size + 3 * codebook.width)
    return codebook, counts


def _array(pixels: Tensor) -> Any:
    """Return pixels in [-1, 1] as an array in [0, 1]."""
    return (pixels.float().cpu().numpy() + 1) / 2
