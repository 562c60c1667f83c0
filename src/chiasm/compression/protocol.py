"""What every compression does."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from torch import Tensor

from chiasm.core.tokens import VisualTokens


class Compression(Protocol):
    """Few tokens out of many."""

    def compress(
        self,
        tokens: VisualTokens,
        frames: Sequence[Tensor] | None = None,
        *,
        importance: Tensor | None = None,
        attention: Sequence[Tensor] | None = None,
        progress: float = 1.0,
    ) -> VisualTokens:
        """Compress the tokens of every row. The sizes of a row still sum to its original tokens.

        Args:
            tokens: One token a cell of each frame, frame after frame.
            frames: For each row uint8 (T, height, width, 3) in [0, 255], RGB; read by compressions
                that measure importance.
            importance: float (B, N) in [0, 1], known already: then nothing is measured.
            attention: For each row float (T, ..., cells), attention rows over its cells, for
                compressions that measure it.
            progress: The part of the training that is over, for a curriculum.

        Raises:
            CompressionError: A budget cannot be met.
            InputError: Something that is needed is missing or does not fit.
        """
        ...
