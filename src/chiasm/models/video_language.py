"""Video and language: a host that answers in its own words about a video of any length."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import replace
from typing import Any, cast

from torch import Tensor, nn

from chiasm.core.batch import Batch
from chiasm.core.errors import ConfigError, InputError
from chiasm.core.outputs import Outputs
from chiasm.core.samples import Sample, Turn
from chiasm.core.tokens import VisualTokens
from chiasm.data.chat import read_video_messages
from chiasm.data.video_prompts import VideoPromptCollator
from chiasm.language.host import Host
from chiasm.language.splice import Spliced
from chiasm.language.video_places import check_video_host, in_order_of_time, write_video
from chiasm.language.video_projector import VideoProjector
from chiasm.models.long_video import LongVideo
from chiasm.models.probes import PROBE_ANSWER, probing
from chiasm.models.video_probes import build_probes_for


class VideoLanguage(nn.Module):
    """A host that reads the states of a watched video at a budget of tokens.

    1. encode, compress, read: a model of long videos makes states of the frames
    2. remember: alike states are merged until the budget holds them
    3. project: each state becomes a token of the host's width, told its time
    4. splice: the tokens take the places of the placeholders, by time; exactly one a state
    5. read: the host reads video and text
    6. predict: scores where a label follows

    Args:
        host: The model that answers.
        watcher: Steps 1 and 2; its heads are not used. Its `reading.memory` is the budget.
        projector: Step 3.
        collator: Turns samples into batches, with the same budget.
        watched: What the watcher was built on; None where it starts from random weights.

    Raises:
        ConfigError: Budgets disagree, or the host has no place for a video.
    """

    senses = frozenset({"ask", "video"})

    def __init__(
        self,
        *,
        host: Host,
        watcher: LongVideo,
        projector: VideoProjector,
        collator: VideoPromptCollator,
        watched: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__()
        check_video_host(host)
        if watcher.reading.memory != collator.budget:
            raise ConfigError(
                f"the watcher keeps {watcher.reading.memory or 'all'} states of a video and the "
                f"collator writes {collator.budget} placeholders; give both one budget"
            )
        self.host = host
        self.watcher = watcher
        self.projector = projector
        self.collator = collator
        self.watched = watched

    @property
    def parts(self) -> dict[str, nn.Module]:
        """The host's as `host_<name>`, the watcher's by their names, and `video_projector`."""
        host = {f"host_{name}": part for name, part in self.host.parts.items()}
        return {**host, **self.watcher.parts, "video_projector": self.projector}

    @property
    def new_parts(self) -> frozenset[str]:
        """The projector, adapters of the host, and the watcher's where it began at random."""
        own = {"video_projector", "host_adapter"} & set(self.parts)
        return frozenset(own if self.watched else own | set(self.watcher.parts))

    @property
    def identity(self) -> Mapping[str, Any]:
        """What the model was built on: the host, and the run that watches."""
        watched = self.watched or {"name": "random", "weights": "random"}
        return {"host": dict(self.host.identity), "video": dict(watched)}

    def forward(self, batch: Batch) -> Outputs:
        """Score the supervised tokens of a batch of `VideoPromptCollator`.

        Returns:
            Logits and targets of the supervised positions.

        Raises:
            InputError: The batch has no videos.
        """
        spliced = self.splice(batch, self.see(batch))
        if not batch.supervised_tokens:
            return Outputs()
        logits, targets = self.host.supervised(spliced, self.host.read(spliced))
        return Outputs(logits=logits, targets=targets)

    def see(self, batch: Batch) -> VisualTokens:
        """Watch the videos of a batch: at most the budget of states, one row a video.

        Raises:
            InputError: The batch has no videos.
        """
        videos = batch.videos
        if videos is None:
            raise InputError(
                "the batch has no videos; collate samples with a video by VideoPromptCollator"
            )
        watcher, reading = self.watcher, self.watcher.reading
        trains = any(parameter.requires_grad for parameter in watcher.parameters())
        # What is frozen watches as it will later: no schedule of its own training goes on.
        with nullcontext() if trains else probing(watcher):
            states, _ = watcher.think(reading.encode(videos), videos)
            memory = reading.remember(states)
        return memory.take(videos.asked)

    def splice(self, batch: Batch, memory: VisualTokens) -> Spliced:
        """Write what is remembered of videos over their placeholders.

        Args:
            batch: Collated text.
            memory: One row a row of the batch.

        Raises:
            PlaceholderError: A video has more states than the batch has places for it.
        """
        states = in_order_of_time(memory)
        return write_video(self.host, batch, states, self.projector(states))

    def generate(self, batch: Batch, **generation: Any) -> list[str]:
        """Write an answer for each row of a batch collated for generation.

        Settings are those of `Host.generate`; `max_new_tokens` is 128 if not given.
        """
        with probing(self):
            spliced = self.splice(batch, self.see(batch))
            rows = self.host.generate(spliced, **{"max_new_tokens": 128, **generation})
        return [self.host.tokenizer.decode(row, skip_special_tokens=True) for row in rows]

    def chat(self, messages: Sequence[Mapping[str, Any]], **generation: Any) -> str:
        """Answer a conversation whose first message of the user has a video; as for `generate`.

        Raises:
            DataError: The messages are malformed, have no video, or it cannot be read.
        """
        sample = read_video_messages(messages)
        batch = self.collator.collate([sample], generation=True).to(self.host.device)
        return self.generate(batch, **generation)[0]

    def probe(self) -> Mapping[str, Tensor]:
        """Return the scores of the last supervised token of two fixed videos, float32 (V,) each."""
        found: dict[str, Tensor] = {}
        with probing(self):
            for sample in self._probes():
                logits = self(self.collator([sample]).to(self.host.device)).logits
                found[sample.identifier] = cast("Tensor", logits)[-1].float()
        return found

    def _probes(self) -> Sequence[Sample]:
        said = Turn("assistant", (PROBE_ANSWER,), supervised=True)
        silent = build_probes_for(self.watcher.reading.encoder, self.watcher.collator.size)
        return [replace(sample, turns=(*sample.turns, said)) for sample in silent]
