"""What differs between families of hosts, as a protocol, and the types that cross it.

How families differ in what they write for an image:

- Most write one grid, cell by cell.
- LLaVA-NeXT writes coarse tokens of the whole picture, then the un-padded fine grid with a newline
  token closing each row. The fine cells are `HostTokens.tokens`; coarse tokens and newlines are
  extras, which `write` puts back in the order of the text, with a repeat of 1 for what is no cell
  of the fine grid.
- InternVL cuts an image into tiles and adds a thumbnail. The tiles, side by side, are the grid; the
  thumbnail is an extra. `write` returns tile order, and `ImagePreparer` counts both.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from torch import Tensor, nn

from chiasm.core.grid import ImageGeometry
from chiasm.core.protocols import ImagePreparer
from chiasm.core.tokens import VisualTokens

Extras = Mapping[str, tuple[tuple[Tensor, ...], ...]]
"""What a family adds to its visual tokens: by name, for each level, one tensor an image."""

PART_NAMES = ("vision", "projector", "language")
"""The parts of every host. Together they hold each parameter of the model exactly once.

Janus, which also draws, has `tokenizer` and `generation` beside them: what only drawing runs.
"""


@dataclass(frozen=True)
class HostTokens:
    """What the host's own tower saw.

    Attributes:
        tokens: One token a cell, in the width that `HostAdapter.token_width` tells.
        extras: Whatever else the family feeds its language model (`deepstack` for Qwen3-VL).
    """

    tokens: VisualTokens
    extras: Extras


@dataclass(frozen=True)
class CellGrid:
    """One grid of an image's tokens, and where its cells stand in the text.

    Attributes:
        geometry: Where each cell lies in the original image.
        positions: int64 (rows * columns, K), for each cell, row by row, the places of its K tokens
            among the positions that the image takes in the text (`Written.features`).
        shares: float (rows * columns,), the part of its tokens' weight that each cell has; all of
            it where None.
    """

    geometry: ImageGeometry
    positions: Tensor
    shares: Tensor | None = None


@dataclass(frozen=True)
class Written:
    """Visual tokens in the order in which they stand in the text.

    Attributes:
        features: For each image float (positions in the text, D).
        repeats: For each image int64 (placeholders in the batch's text,): how many positions each
            placeholder becomes, 0 where its cell was merged away. Sums to the length of
            `features`.
        mm_encoder_outputs: The library's own form of the same, by modality.
    """

    features: tuple[Tensor, ...]
    repeats: tuple[Tensor, ...]
    mm_encoder_outputs: Mapping[str, Any]


class HostAdapter(Protocol):
    """All that chiasm needs to know of a family; stateless, one instance a `model_type`."""

    @property
    def model_type(self) -> str:
        """The `model_type` of the family's configuration."""
        ...

    @property
    def decoder_name(self) -> str:
        """Dotted name of the text decoder inside the model, as `named_modules` gives it."""
        ...

    @property
    def separated(self) -> bool:
        """Whether some other token always stands between two images in the text."""
        ...

    @property
    def most_grids(self) -> int:
        """The most grids that `grids` returns for an image."""
        ...

    def image_token_id(self, config: Any) -> int:
        """Return the id of the placeholder of one visual token."""
        ...

    def image_text(self, placeholder: str, count: int) -> str:
        """Return what the one placeholder that the chat template writes becomes for `count` tokens.

        InternVL and Janus add their begin and end tokens here; most families only repeat.
        """
        ...

    def preparer(self, config: Any, image_processor: Any) -> ImagePreparer:
        """Return what turns images into the tower's input and tells their geometry.

        Raises:
            ConfigError: The image processor does not fit the model, or is of a kind whose geometry
                is not known.
        """
        ...

    def parts(self, model: nn.Module) -> dict[str, nn.Module]:
        """Return the modules named by `PART_NAMES`, and what only drawing runs, if it can."""
        ...

    def encode(
        self, model: Any, host_images: Mapping[str, Tensor], geometries: Sequence[ImageGeometry]
    ) -> HostTokens:
        """Run the host's tower and projector. Gradients flow wherever a part asks for them."""
        ...

    def token_width(self, config: Any) -> int:
        """Return the width of the tokens that `encode` gives, and a fusion reads and writes."""
        ...

    def project(self, model: Any, tokens: Tensor) -> Tensor:
        """Bring tokens, float (I, N, `token_width`), to the width of the language model.

        What `encode` of most families gives has that width already. MGM fuses before its projector.
        """
        ...

    def write(self, rows: Sequence[Tensor], extras: Extras, tokens_per_cell: int) -> Written:
        """Put visual tokens into the order of the text.

        Args:
            rows: For each image float (cells * tokens_per_cell, D). Where there are several tokens
                a cell, the host's own comes first in each cell.
            extras: As `encode` returned them, one entry a cell.
            tokens_per_cell: How many tokens stand for a cell.
        """
        ...

    def grids(
        self, config: Any, geometry: ImageGeometry, tokens_per_cell: int
    ) -> tuple[CellGrid, ...]:
        """Return the grids in which an image stands in the text, that of `geometry` first.

        Most families have one. LLaVA-NeXT has a second, coarse one of the whole picture.

        Args:
            config: The model's configuration.
            geometry: The grid of `HostTokens.tokens`.
            tokens_per_cell: As for `write`.
        """
        ...

    def positions(
        self,
        model: Any,
        input_ids: Tensor,
        attention_mask: Tensor,
        token_types: Tensor,
        host_images: Mapping[str, Tensor],
    ) -> Tensor:
        """Return position ids of the batch's text, before any repeats.

        Returns:
            int64 (B, S), or (3, B, S) for time, row and column where the family rotates by three.
        """
        ...

    def model_kwargs(
        self, token_types: Tensor, host_images: Mapping[str, Tensor]
    ) -> dict[str, Tensor]:
        """Return what else the family's forward wants, `token_types` int64 (B, S) after repeats."""
        ...

    def forget(self, model: Any) -> None:
        """Clear what the family's model remembers between calls."""
        ...
