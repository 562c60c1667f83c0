"""Occlusion: answers about, and a completed picture of, a thing that is partly hidden."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any, cast

from torch import Tensor, nn

from chiasm.core.batch import Batch
from chiasm.core.outputs import Outputs
from chiasm.core.protocols import Fused
from chiasm.data.chat import read_messages
from chiasm.data.collate import Collator
from chiasm.data.pairs import as_pair
from chiasm.fusion.aligned_attention import AlignedAttention
from chiasm.fusion.object_boxes import object_boxes
from chiasm.fusion.pair_views import normalise_views
from chiasm.fusion.pixel_blend import PixelBlend
from chiasm.language.host import Host
from chiasm.layers.warp import box_affine, warp
from chiasm.models.drawing import Drawing
from chiasm.models.pair_answering import complete_pairs, pairs_of, probe_pairs, write_answers
from chiasm.models.pair_results import Completed, PairView
from chiasm.models.probes import probing

BRANCHES = frozenset({"tokens", "codes"})


class Occlusion(nn.Module):
    """A host that reads an image together with a reconstruction of what is hidden in it.

    The way of a batch, after HTFA (hierarchical trinity fusion):
    1. fuse, level 1: original and reconstruction are blended, pixel by pixel
    2. encode: the host's tower reads original, reconstruction and blend
    3. fuse, level 2: the original's tokens attend to those of the aligned reconstruction
    4. splice: the fused tokens take the places of the placeholders; level 3: codes are written in
    5. read: the one causal decoder reads all
    6. predict: scores of text where a label follows, and of codes where a code follows

    Args:
        host: The model that is extended, with a late projector where its family has one.
        blend: Level 1.
        attention: Level 2; without it the decoder reads the blend's tokens.
        drawing: Level 3, the generation branch; without it the model only understands.
        collator: Turns samples into batches with pairs.
        scored: Which branches training scores (`tokens`: text, `codes`); no other is computed.
    """

    def __init__(
        self,
        *,
        host: Host,
        blend: PixelBlend,
        attention: AlignedAttention | None,
        drawing: Drawing | None,
        collator: Collator,
        scored: Collection[str] = BRANCHES,
    ) -> None:
        super().__init__()
        self.host = host
        self.blend = blend
        self.attention = attention
        self.drawing = drawing
        self.collator = collator
        self.scored = frozenset(scored)

    @property
    def senses(self) -> frozenset[str]:
        """What can be asked of it: `complete` where there is a generation branch."""
        drawn = {"complete"} if self.drawing else set()
        return frozenset({"ask", "image", "reconstruction"} | drawn)

    @property
    def parts(self) -> dict[str, nn.Module]:
        """The host's parts as `host_<name>`, `pixel_blend` and `aligned_attention`."""
        own = {"pixel_blend": self.blend, "aligned_attention": self.attention}
        added = {
            n: p for n, p in own.items() if p is not None and any(True for _ in p.parameters())
        }
        return {f"host_{name}": part for name, part in self.host.parts.items()} | added

    @property
    def new_parts(self) -> frozenset[str]:
        """The blend, the attention and adapters."""
        own = ("pixel_blend", "aligned_attention", "host_adapter")
        return frozenset(name for name in self.parts if name in own)

    @property
    def identity(self) -> Mapping[str, Any]:
        """What the model was built on."""
        return {"host": dict(self.host.identity)}

    def forward(self, batch: Batch) -> Outputs:
        """Score the supervised tokens of a batch, and the codes of its pictures.

        Returns:
            Logits and targets of the supervised positions; `codes.logits` float (B, n, K) and
            `codes.targets` int64 (B, n), each where the branch is scored.

        Raises:
            InputError: The batch has no pairs.
        """
        view = self.see(batch)
        spliced = self.host.splice(batch, view.fused.tokens, view.extras)
        taught = None
        if self.drawing is not None and "codes" in self.scored:
            taught = self.drawing.teach(spliced, pairs_of(batch), view.blended, self.training)
            spliced = taught.written.spliced
        hidden = self.host.read(spliced)
        codes = {} if taught is None else cast("Drawing", self.drawing).score(hidden, taught)
        if "tokens" not in self.scored or not batch.supervised_tokens:
            return Outputs(named=codes)
        logits, targets = self.host.supervised(spliced, hidden)
        return Outputs(logits=logits, targets=targets, named=codes)

    def see(self, batch: Batch, detail: bool = False) -> PairView:
        """Blend, encode and fuse the pairs of a batch, and stop there.

        Args:
            batch: With pairs.
            detail: Whether to compute the attention's weights for people.
        """
        pairs = pairs_of(batch)
        found = object_boxes(pairs, batch.geometries)
        affine = box_affine(found.boxes[:, 1], found.boxes[:, 0])
        blended = self.blend.blend(
            pairs.original, pairs.reconstruction, pairs.hidden, pairs.hidden_known, affine
        )
        processor = self.host.image_processor
        pixels = normalise_views(
            (pairs.original, pairs.reconstruction, blended.image),
            processor.image_mean,
            processor.image_std,
        )
        frames = (*batch.geometries, *pairs.frames, *batch.geometries)
        seen = self.host.encode({"pixel_values": pixels.to(self.host.dtype)}, frames)
        original, reconstruction, blend = seen.tokens.chunk(3)
        fused = Fused(tokens=blend, named={})
        if self.attention is not None:
            fused = self.attention.fuse(original, reconstruction, blend, affine, detail)
        return PairView(
            alpha=blended.alpha,
            blended=blended.image,
            aligned=warp(pairs.reconstruction, affine)[0],
            boxes=found.boxes,
            rules=found.rules,
            fused=fused,
            extras={
                name: tuple(level[: len(pairs)] for level in levels)
                for name, levels in seen.extras.items()
            },
        )

    def look(self, batch: Batch, detail: bool = False) -> PairView:
        """As `see`, in evaluation mode and without gradient."""
        with probing(self):
            return self.see(batch, detail)

    def generate(self, batch: Batch, **generation: Any) -> list[str]:
        """Write an answer for each row of a batch; settings as `write_answers` takes them."""
        with probing(self):
            rows = write_answers(self, batch, self.see(batch), generation)
        return [self.host.tokenizer.decode(row, skip_special_tokens=True) for row in rows]

    def complete(
        self, batch: Batch, *, texts: Sequence[str | Sequence[int]] | None = None, **settings: Any
    ) -> list[Completed]:
        """Answer, and draw the complete picture after the answer.

        Args:
            batch: Collated for generation.
            texts: Answers to draw after, as text or tokens; written by the model if None.
            **settings: `temperature` (1), `top_k` (0), `guidance` (1) and `seed` (None) of the
                drawing, see `language.drawing`; all others are of the answer, as for `generate`.

        Raises:
            InputError: The model has no generation branch, or a setting is out of range.
        """
        with probing(self):
            return complete_pairs(self, batch, texts, **settings)

    def chat(self, messages: Sequence[Mapping[str, Any]], **generation: Any) -> str:
        """Answer a conversation whose first user turn shows the original, then the reconstruction.

        Raises:
            DataError: The messages are malformed, have not two images, or one cannot be read.
        """
        sample = as_pair(read_messages(messages))
        batch = self.collator.collate([sample], generation=True).to(self.host.device)
        return self.generate(batch, **generation)[0]

    def probe(self) -> Mapping[str, Tensor]:
        """Return the scores of the last text token of two fixed pairs, and of their first code."""
        with probing(self):
            return probe_pairs(self, self.collator, self.host.device)
