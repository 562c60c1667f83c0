"""Long video: states of a video that was encoded, compressed and read, and heads that read them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor, nn

from chiasm.core.batch import Batch, VideoBatch
from chiasm.core.errors import InputError
from chiasm.core.outputs import Outputs
from chiasm.core.samples import Sample
from chiasm.core.tokens import VisualTokens
from chiasm.data.video_collate import VideoCollator
from chiasm.heads.action_decoding import ActionDecoder
from chiasm.layers.domains import Domains
from chiasm.models.probes import probing
from chiasm.models.video_domains import parts_by_domain, read_by_domain
from chiasm.models.video_heads import VideoHeads, score_captions
from chiasm.models.video_probes import build_probes_for
from chiasm.models.video_reading import VideoReading
from chiasm.models.video_states import frame_states, original_states, padded_times
from chiasm.objectives.captions import TARGETS

ANSWERS = "answers"
NOT_SAID = ("actions.points", "actions.mask", TARGETS)
"""Outputs that no weight has a part in."""


class LongVideo(nn.Module):
    """Watches videos.

    1. encode: the tower reads frames, or features are projected
    2. compress: tokens of a clip that are alike become one, before most of the tower's work
    3. read: tokens see each other
    4. predict: each head reads the states

    Args:
        reading: Steps 1 to 3.
        heads: Step 4.
        collator: Turns samples into batches.
        decoder: Chooses segments of what the head of actions says; there exactly when that is.
        answers: The closed set of answers.
        domains: Names of domains.
        by_domain: What the reader does differently by domain; None for nothing.
    """

    def __init__(
        self,
        *,
        reading: VideoReading,
        heads: VideoHeads,
        collator: VideoCollator,
        decoder: ActionDecoder | None = None,
        answers: Sequence[str] = (),
        domains: Sequence[str] = (),
        by_domain: Domains | None = None,
    ) -> None:
        super().__init__()
        self.reading = reading
        self.cell_head, self.answer_head = heads.cells, heads.answers
        self.action_head, self.frame_pool = heads.actions, heads.frames
        self.caption_head = heads.captions
        self._heads = heads
        self.collator = collator
        self.answers = tuple(answers)
        self.decoder = decoder
        self.domains = tuple(domains)
        self.by_domain = by_domain

    @property
    def senses(self) -> frozenset[str]:
        """What can be asked of it: `ask`, `watch` and `caption` where there are heads for it."""
        heads = {"ask": self.answer_head, "watch": self.action_head, "caption": self.caption_head}
        return frozenset({"video", *(sense for sense, head in heads.items() if head is not None)})

    @property
    def parts(self) -> dict[str, nn.Module]:
        """`frame_encoder`, `reader`, `domains` if any, and the heads that are there."""
        tower = {"tower": self.reading.encoder, "progress": self.reading.progress}
        readers = parts_by_domain(self.reading.reader, self.by_domain)
        return {"frame_encoder": nn.ModuleDict(tower), **readers, **self._heads.parts}

    @property
    def new_parts(self) -> frozenset[str]:
        """All parts: nothing comes from a checkpoint."""
        return frozenset(self.parts)

    @property
    def identity(self) -> Mapping[str, Any]:
        """What the model was built on: nothing."""
        return {"frame_encoder": {"name": "random", "weights": "random"}}

    def forward(self, batch: Batch) -> Outputs:
        """Watch the videos of a batch of `VideoCollator`.

        Returns:
            In `named`, as heads are there: `cells.<attribute>` float (all frames, rows, columns,
            classes); `answers` float (Q, answers); `actions.*`, see `ActionHead.predict`;
            `captions.*`, see `score_captions`; `router` and `router.logits` float (V, domains).

        Raises:
            InputError: The batch has no videos.
        """
        if batch.videos is None:
            raise InputError("the batch has no videos; collate with VideoCollator")
        states, routes = self.think(self.reading.encode(batch.videos), batch.videos)
        return Outputs(named={**self.predict(states, batch, batch.videos), **routes})

    def think(
        self, tokens: VisualTokens, videos: VideoBatch
    ) -> tuple[VisualTokens, dict[str, Tensor]]:
        """Read tokens of videos; see `read_by_domain`."""
        return read_by_domain(self.reading, self.by_domain, tokens, videos)

    def predict(self, states: VisualTokens, batch: Batch, videos: VideoBatch) -> dict[str, Tensor]:
        """Return what all heads say of states; see `forward`."""
        named: dict[str, Tensor] = {}
        if self.cell_head is not None:
            named |= self.cell_head.score(original_states(states))
        if self.answer_head is not None or self.caption_head is not None:
            memory = self.reading.remember(states)
            if self.answer_head is not None:
                named[ANSWERS] = self.answer(memory, batch, videos)
            if self.caption_head is not None:
                named |= score_captions(self.caption_head, memory, videos)
        if self.action_head is not None and self.frame_pool is not None:
            by_frame = frame_states(states, padded_times(videos.times))
            pooled = self.frame_pool(by_frame.features)
            named |= self.action_head.predict(pooled, by_frame.mask, by_frame.times)
        return named

    def answer(self, memory: VisualTokens, batch: Batch, videos: VideoBatch) -> Tensor:
        """Return the scores of answers from what is remembered, float (Q, answers).

        Raises:
            InputError: The model has no head of answers.
        """
        if self.answer_head is None:
            raise InputError("this model answers no questions; train one with a head of answers")
        scores: Tensor = self.answer_head(
            batch.input_ids,
            batch.attention_mask.bool(),
            videos.asked,
            memory.features,
            memory.mask,
            memory.sizes,
        )
        return scores

    def probe(self) -> Mapping[str, Tensor]:
        """Return what the heads say of two fixed videos, by `<video>.<output>`, float32."""
        found: dict[str, Tensor] = {}
        device = next(self.parameters()).device
        with probing(self):
            for sample in self._probes():
                named = self(self.collator([sample]).to(device)).named
                said = {name: one for name, one in named.items() if name not in NOT_SAID}
                found |= {f"{sample.identifier}.{n}": one.float() for n, one in said.items()}
        return found

    def _probes(self) -> tuple[Sample, ...]:
        collator = self.collator
        return build_probes_for(self.reading.encoder, collator.size, collator.captions)
