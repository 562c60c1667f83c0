"""The generation branch: pictures as codes, in the same decoder that reads text."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from chiasm.core.batch import PairBatch
from chiasm.core.errors import ConfigError, InputError
from chiasm.encoders.codebook import Codebook
from chiasm.fusion.pair_views import Drawn, view_to_draw
from chiasm.language.code_segment import (
    CodeSegment,
    Place,
    WithCodes,
    drop_prefix,
    states_at,
    write_codes,
)
from chiasm.language.drawing import check_drawing, draw_codes
from chiasm.language.host import Host
from chiasm.language.painter import Painter, choose_codes
from chiasm.language.row_draws import row_generators
from chiasm.language.splice import Spliced


@dataclass(frozen=True)
class Taught:
    """Rows with codes, and which codes are to be predicted.

    Attributes:
        written: Rows with codes.
        targets: int64 (B, n).
    """

    written: WithCodes
    targets: Tensor


@dataclass(frozen=True)
class Drawing:
    """What a host that can draw needs beside itself. Its modules are the host's own.

    Attributes:
        host: Reads codes and text alike.
        codebook: Pictures to codes and back; stays as it is.
        painter: Feeds codes to the decoder and scores them.
        segment: How codes are written into a row.
        drawn: What is drawn.
        drop: Share of rows that learn to draw from nothing, for guidance.
    """

    host: Host
    codebook: Codebook
    painter: Painter
    segment: CodeSegment
    drawn: Drawn = "picture"
    drop: float = 0.0

    @classmethod
    def of(cls, host: Host, place: Place, drawn: Drawn = "picture", drop: float = 0.0) -> Drawing:
        """Return the drawing of a host of the Janus family.

        Raises:
            ConfigError: The host cannot draw.
        """
        painter = Painter.of(host)
        text = host.adapter.image_text(host.image_token, 1)
        begin, placeholder, end = host.tokenizer(text, add_special_tokens=False)["input_ids"]
        codebook = Codebook(host.model.base_model.vqmodel)
        if codebook.width != painter.embeddings.embedding_dim:
            raise ConfigError(
                f"the tokenizer's codes are {codebook.width} wide, the host's embeddings of codes "
                f"{painter.embeddings.embedding_dim}; they must agree"
            )
        segment = CodeSegment(begin, end, placeholder, host.pad_id, place)
        return cls(host, codebook, painter, segment, drawn, drop)

    @property
    def before_text(self) -> bool:
        """Whether codes of what was read stand before the text, as in HTFA."""
        return self.segment.place == "before_text"

    def codes_of(self, view: Tensor) -> Tensor:
        """Return the codes int64 (B, n) of views float (B, 3, side, side) in [0, 1]."""
        with torch.no_grad():
            return self.codebook.encode(self.codebook.frame(view)).indices

    def write_read(self, spliced: Spliced, blend: Tensor, left: bool = False) -> WithCodes:
        """Write the codes of what was read; gradient reaches the blend straight through them."""
        codes = self.codebook.encode(self.codebook.frame(blend))
        vectors = self.painter.embed(codes.indices, codes.latents)
        return write_codes(spliced, vectors, self.segment, left=left)

    def teach(self, spliced: Spliced, pairs: PairBatch, blend: Tensor, training: bool) -> Taught:
        """Write codes into rows, and say which are to be predicted.

        Before the text these are codes of what was read, and each position predicts the next code
        of the picture; after it they are the picture's own, as teacher.
        """
        targets = self.codes_of(view_to_draw(pairs, blend, self.drawn))
        if self.before_text:
            return Taught(self.write_read(spliced, blend), targets)
        written = write_codes(spliced, self.painter.embed(targets), self.segment)
        if training and self.drop:
            rows = torch.rand(len(targets), device=targets.device) < self.drop
            written = drop_prefix(written, rows)
        return Taught(written, targets)

    def score(self, hidden: Tensor, taught: Taught) -> dict[str, Tensor]:
        """Return `codes.logits` float (B, n, K) and `codes.targets` int64 (B, n)."""
        states = states_at(hidden, taught.written.predicting)
        return {"codes.logits": self.painter.score(states), "codes.targets": taught.targets}

    def check(
        self,
        *,
        temperature: float = 1.0,
        top_k: int = 0,
        guidance: float = 1.0,
        seed: int | None = None,
    ) -> None:
        """Check the settings of `draw`.

        Raises:
            InputError: One is out of range, or codes before the text are to be guided.
        """
        check_drawing(temperature, top_k, guidance, seed)
        if self.before_text and guidance != 1:
            raise InputError(
                f"guidance is {guidance}, and this model draws all codes at once from what it "
                "read, before any text; leave it at 1, or train with occlusion.drawing.order "
                "after_text"
            )

    def draw(
        self, spliced: Spliced, blend: Tensor, told: Sequence[Sequence[int]], **settings: Any
    ) -> Tensor:
        """Draw the codes int64 (B, n) of one picture a row.

        Where codes stand before the text, all are predicted at once; there is no guidance, and
        what was told comes too late.

        Args:
            spliced: Prompts.
            blend: What was read.
            told: For each row the tokens of the answer, its end included.
            **settings: As `draw_codes` takes them.

        Raises:
            InputError: See `check`.
        """
        self.check(**settings)
        rows, columns = self.codebook.grid
        if not self.before_text:
            nothing = blend.new_zeros((len(blend), 0, self.host.width))
            prompt = write_codes(spliced, nothing, self.segment, told, left=True).spliced
            return draw_codes(
                self.host, self.painter, prompt, self.segment, count=rows * columns, **settings
            )
        written = self.write_read(spliced, blend)
        scores = self.painter.score(states_at(self.host.read(written.spliced), written.predicting))
        return choose_codes(
            scores,
            temperature=settings["temperature"],
            top_k=settings["top_k"],
            generators=row_generators(settings["seed"], len(blend), blend.device),
        )
