"""A dual encoder as something that answers questions and can be looked into."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Generic, Protocol, TypeVar

import numpy as np

from chiasm.core.batch import Batch
from chiasm.core.errors import InputError
from chiasm.core.samples import Sample
from chiasm.data.collate import Collator
from chiasm.evaluation.protocols import HOST, Force, GateReading
from chiasm.evaluation.suites import CAPTIONS
from chiasm.fusion.gated import GatedFusion
from chiasm.language.host import Host
from chiasm.models.dual_encoder import DualEncoder
from chiasm.models.gate_report import gated
from chiasm.models.probes import build_probe_samples, probing

MOST_NEW_TOKENS, MOST_CAPTION_TOKENS = 32, 128
"""Longest answer, and longest description: one that is cut is scored by its beginning alone."""


class CollatesPrompts(Protocol):
    """Turns samples into prompts."""

    def collate(self, samples: Sequence[Sample], *, generation: bool) -> Batch:
        """Collate samples; with `generation`, up to where the answer begins."""
        ...


class Writing(Protocol):
    """A model whose host writes answers to collated prompts."""

    host: Host

    @property
    def collator(self) -> CollatesPrompts:
        """Turns samples into batches."""
        ...

    def generate(self, batch: Batch, *, max_new_tokens: int) -> list[str]:
        """Write an answer for each row."""
        ...


def longest_answer(suite: str) -> int:
    """Return the most tokens of what is scored by a suite."""
    return MOST_CAPTION_TOKENS if suite == CAPTIONS else MOST_NEW_TOKENS


WritingModel = TypeVar("WritingModel", bound=Writing)


class GreedyAnswerer(Generic[WritingModel]):
    """Answers samples in batches, greedily; see `evaluation.protocols.Answerer`.

    Args:
        model: The model.
        name: Name or directory of the run, for reports.
        max_new_tokens: Longest answer.
    """

    def __init__(
        self, model: WritingModel, name: str = "", max_new_tokens: int = MOST_NEW_TOKENS
    ) -> None:
        self.model = model
        self.name = name
        self.max_new_tokens = max_new_tokens

    def answers(self, samples: Sequence[Sample]) -> list[str]:
        """Answer the last user turn of each sample."""
        batch = self.model.collator.collate(samples, generation=True)
        batch = batch.to(self.model.host.device)
        return self.model.generate(batch, max_new_tokens=self.max_new_tokens)


class ModelAnswerer(GreedyAnswerer[DualEncoder]):
    """Answers samples in batches, greedily; with a gate, can be read and forced.

    Args:
        model: The model.
        name: Name or directory of the run, for reports.
        max_new_tokens: Longest answer.
    """

    @property
    def streams(self) -> tuple[str, ...]:
        """Names of the streams, "host" first, then the extra encoders."""
        return (HOST, *self.model.encoders)

    @property
    def gated(self) -> bool:
        """Whether the fusion has a gate."""
        return isinstance(self.model.fusion, GatedFusion)

    def answers(
        self, samples: Sequence[Sample], force: Force = None, shuffle: bool = False
    ) -> list[str]:
        """Answer the last user turn of each sample; see `evaluation.protocols.GatedModel`.

        Raises:
            InputError: The gate is to be forced and there is none, or fewer than two images are to
                change places.
        """
        batch = self._collate(samples)
        if shuffle:
            batch = self._exchange_views(batch)
        with probing(self.model), self._forced(force):
            return self.model.generate(batch, max_new_tokens=self.max_new_tokens)

    def gates(self, samples: Sequence[Sample]) -> GateReading:
        """Read the gate for all images of the samples.

        Raises:
            InputError: The fusion has no gate.
        """
        gated(self.model.fusion)
        batch = self._collate(samples)
        with probing(self.model):
            named = self.model.look(batch).named
        maps = named["gate_map"].double().cpu().numpy()
        return GateReading(
            weights=named["gate"].double().cpu().numpy(),
            contributions=named["stream_norms"].double().cpu().numpy(),
            maps=tuple(
                np.asarray(row[: geometry.count]).reshape(geometry.rows, geometry.columns, -1)
                for row, geometry in zip(maps, batch.geometries, strict=True)
            ),
            geometries=batch.geometries,
        )

    def describe(self) -> dict[str, Any]:
        """Return what shaped the answers."""
        return {
            **describe_host(self.model.host, self.model.collator, self.name),
            "generation": {"max_new_tokens": self.max_new_tokens, "temperature": 0.0},
        }

    def _collate(self, samples: Sequence[Sample]) -> Batch:
        return self.model.collator.collate(samples, generation=True).to(self.model.host.device)

    def _exchange_views(self, batch: Batch) -> Batch:
        """Give the extra encoders, for each image, the next image of the batch at its size.

        The host's grid and its own features stay those of the image itself. Stretching the other
        image to this one's size lets images of all sizes change places.
        """
        collator = self.model.collator
        images = [collator.loader(source) for sample in batch.samples for source in sample.images]
        if len(images) < 2:
            raise InputError(
                f"{len(images)} image in the batch has none to change views with; use larger "
                "batches, or data with more images"
            )
        seen = [
            other.resize((geometry.original_width, geometry.original_height))
            for other, geometry in zip([*images[1:], images[0]], batch.geometries, strict=True)
        ]
        views = {
            name: tuple(map(transform, seen, batch.geometries))
            for name, transform in collator.transforms.items()
        }
        return dataclasses.replace(batch, encoder_images=views).to(self.model.host.device)

    @contextmanager
    def _forced(self, force: Force) -> Iterator[None]:
        if force is None:
            yield
            return
        fusion = self.model.fusion
        if isinstance(fusion, GatedFusion):
            shares = (
                {force: 1.0}
                if isinstance(force, str)
                else dict(zip(self.streams, force, strict=True))
            )
            with fusion.forced(shares):
                yield
            return
        if force != HOST:
            raise InputError(
                f"the gate is to be set to {force!r}, and the fusion has none; without a gate only "
                "'host' can be forced"
            )
        self.model.fusion = None
        try:
            yield
        finally:
            self.model.fusion = fusion


def describe_host(host: Host, collator: Collator, name: str) -> dict[str, Any]:
    """Return what a host adds to numbers beside its weights.

    Args:
        host: The host.
        collator: What renders samples for it.
        name: Name or directory of the run.
    """
    prompt = collator.prompter.render(build_probe_samples()[0], [1])
    return {
        "model": name,
        "prompt": prompt.text,
        "dtype": str(host.dtype).removeprefix("torch."),
        "attention": str(host.model.config.get_text_config()._attn_implementation),
        "pixels": _pixels(host.image_processor.size),
    }


def _pixels(size: Mapping[str, int | None]) -> dict[str, int]:
    return {name: int(value) for name, value in dict(size).items() if value is not None}
