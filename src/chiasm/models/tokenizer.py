"""A tokenizer of pictures on its own: how a codebook learns before a language model reads it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal

import torch
from pydantic import model_validator
from torch import Tensor, nn

from chiasm.core.batch import Batch
from chiasm.core.config import Config
from chiasm.core.errors import InputError
from chiasm.core.outputs import Outputs
from chiasm.data.picturing import PICTURES, VIEWS, PictureCollator, View
from chiasm.encoders.codebook import Codebook, CodebookConfig
from chiasm.encoders.codebook_start import check_for_components, start_from_components
from chiasm.encoders.codebook_use import CodeRevival, RevivalConfig, start_as_first
from chiasm.encoders.fingerprint import fingerprint
from chiasm.models.probes import build_probe_samples, probing


class TokenizerConfig(Config):
    """A tokenizer of pictures and how it learns.

    Attributes:
        codebook: Encoder, codes and decoder.
        revival: When dead codes are replaced; None leaves them dead.
        views: Which pictures of a sample are learned from.
        start: What the first pictures make of random weights: `spread` lets what the encoder says
            of them fill the sphere; `components` writes their principal components into encoder
            and decoder, for architectures of one level. A checkpoint is left as it is.
    """

    codebook: CodebookConfig
    revival: RevivalConfig | None = RevivalConfig()
    views: tuple[View, ...] = VIEWS
    start: Literal["spread", "components"] = "spread"

    @model_validator(mode="after")
    def _first_step_is_known(self) -> TokenizerConfig:
        if self.start == "components" and self.revival is None:
            raise ValueError(
                "start: components, without `revival`, whose counter of steps tells the first "
                "pictures; give it"
            )
        return self

    def build(self, codebook: Codebook | None = None) -> Tokenizer:
        """Load or initialise the tokenizer.

        Args:
            codebook: That of the configuration, where it is at hand already.

        Raises:
            CheckpointError: The checkpoint of `codebook` cannot be read or does not fit.
            ConfigError: The architecture of `codebook` is wrong, or has not the form that `start`
                needs.
        """
        codebook = codebook or self.codebook.build()
        if self.start == "components" and self.codebook.path is None:
            check_for_components(codebook)
        return Tokenizer(
            codebook=codebook,
            revival=None if self.revival is None else self.revival.build(size=codebook.size),
            collator=PictureCollator(codebook.transform, self.views),
            start=_STARTS[self.start],
            pretrained=self.codebook.path,
        )


class Tokenizer(nn.Module):
    """Draws pictures again from their codes.

    1. look: the encoder says something of each cell
    2. revive: codes that fell out of use become what it says (in training, where it is asked for)
    3. quantise: each cell takes the nearest code
    4. draw: the decoder makes a picture of the codes

    Args:
        codebook: Encoder, codes and decoder.
        revival: Replaces dead codes; None leaves them dead.
        collator: Turns samples into batches.
        start: Changes random weights by the first pictures, float (P, 3, side, side) in [-1, 1].
        pretrained: Where the codebook came from; None for random weights.
    """

    senses: frozenset[str] = frozenset()

    def __init__(
        self,
        *,
        codebook: Codebook,
        revival: CodeRevival | None,
        collator: PictureCollator,
        start: Callable[[Codebook, Tensor], None] = Codebook.spread,
        pretrained: str | None = None,
    ) -> None:
        super().__init__()
        self.codebook = codebook
        self.revival = revival
        self.collator = collator
        self._start = start if pretrained is None else None
        # Taken now: training moves the weights, and identity tells what was built on.
        self._base = (pretrained, fingerprint(codebook)) if pretrained else ("random", "random")

    @property
    def parts(self) -> dict[str, nn.Module]:
        """`picture_encoder`, `codes` (with what is known of their use) and `picture_decoder`."""
        parts = self.codebook.parts
        if self.revival is not None:
            parts["codes"] = nn.ModuleDict({"rows": parts["codes"], "revival": self.revival})
        return parts

    @property
    def new_parts(self) -> frozenset[str]:
        """All parts, unless the codebook came from a checkpoint."""
        return frozenset() if self._base[0] != "random" else frozenset(self.parts)

    @property
    def identity(self) -> Mapping[str, Any]:
        """What the tokenizer was built on."""
        name, weights = self._base
        return {"tokenizer": {"name": Path(name).name, "weights": weights}}

    @property
    def revived(self) -> int:
        """How many codes have been replaced so far."""
        return 0 if self.revival is None else self.revival.count

    def forward(self, batch: Batch) -> Outputs:
        """Draw the pictures of a batch of `PictureCollator` again.

        Returns:
            In `named`: `pictures` float32 (P, 3, side, side), about [-1, 1]; `codes` int64 (P, n);
            `codes.latents` and `codes.chosen` float32 (P, n, d), see `Codes`; `codes.used`, what
            was drawn from.

        Raises:
            InputError: The batch has no pictures.
        """
        if PICTURES not in batch.targets:
            raise InputError(
                f"the batch has no {PICTURES!r}; it has {sorted(batch.targets) or 'no targets'}. "
                "Collate with PictureCollator"
            )
        revival = self.revival if self.codebook.model.quantize.training else None
        if self._start is not None and revival is not None and revival.fresh:
            start_as_first(self._start, self.codebook, batch.targets[PICTURES])
        latents = self.codebook.look(batch.targets[PICTURES])
        waiting = revival is not None and revival.waiting
        if revival is not None:
            revival.revive(self.codebook.weight, latents)
        codes = self.codebook.quantise(latents)
        if revival is not None:
            revival.note(codes.indices)
        used = latents if waiting else codes.quantised
        drawn = self.codebook.decode_latents(used)
        return Outputs(
            named={
                PICTURES: drawn,
                "codes": codes.indices,
                "codes.latents": codes.latents,
                "codes.chosen": codes.chosen,
                "codes.used": used,
            }
        )

    def probe(self) -> Mapping[str, Tensor]:
        """Return what the encoder says of two fixed pictures, and two pictures of fixed codes.

        Not a picture drawn again: a latent half-way between two codes may fall to either side on
        another machine.
        """
        device = next(self.parameters()).device
        samples = build_probe_samples()
        with probing(self):
            pixels = self.collator(samples).to(device).targets[PICTURES]
            seen = self.codebook.look(pixels)
            cells = self.codebook.grid[0] * self.codebook.grid[1]
            codes = torch.arange(len(samples) * cells, device=device) % self.codebook.size
            drawn = self.codebook.decode(codes.view(len(samples), cells))
        names = [sample.identifier for sample in samples]
        return {f"{name}.seen": one for name, one in zip(names, seen, strict=True)} | {
            f"{name}.drawn": one for name, one in zip(names, drawn, strict=True)
        }

    def save(self, directory: Path) -> None:
        """Write a checkpoint that `CodebookConfig.path` and transformers can read."""
        self.codebook.save(directory)


_STARTS: dict[str, Callable[[Codebook, Tensor], None]] = {
    "spread": Codebook.spread,
    "components": start_from_components,
}
"""Name to what the first pictures do to random weights."""
