"""From a recipe to a model of long videos, and how well it does."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from chiasm.compression.progress import Progress
from chiasm.core.batch import IGNORE
from chiasm.core.config import lookup
from chiasm.core.samples import Sample
from chiasm.data.video_captions import VideoCaptions
from chiasm.data.video_collate import VideoCollator
from chiasm.data.vocabulary import Vocabulary
from chiasm.data.world.motion_cells import MOTION_LABELS
from chiasm.heads.cells import CellHead
from chiasm.layers.frame_pool import FramePool
from chiasm.metrics.temporal import temporal_average_precision
from chiasm.models.long_video import ANSWERS, LongVideo
from chiasm.models.probes import probing
from chiasm.models.video_heads import VideoHeads
from chiasm.models.video_reading import VideoReading
from chiasm.objectives.captions import TERM, Captions
from chiasm.recipes.objective_choice import ObjectiveChoice
from chiasm.recipes.validation import CAPTION_LOSS
from chiasm.recipes.video_choice import VideoChoice

BATCH = 8
THRESHOLDS = (0.3, 0.4, 0.5, 0.6, 0.7)
"""Temporal IoU at which actions are scored."""


def build_video(
    choice: VideoChoice, objective: ObjectiveChoice, accumulation: int = 1
) -> LongVideo:
    """Build a model of long videos.

    Args:
        choice: Its parts.
        objective: Its `cells` say which dense labels there are.
        accumulation: Forward passes of a batch of training, which a curriculum counts.
    """
    vocabulary = Vocabulary(choice.words)
    captions = build_captions(choice)
    encoder = choice.features.build() if choice.features is not None else choice.encoder.build()
    compression, by_domain = choice.compression, choice.by_domain
    reading = VideoReading(
        encoder=encoder,
        compression=None if compression is None else compression.build(),
        reader=choice.reader.build(width=encoder.width),
        clip=choice.clip,
        at_once=choice.at_once,
        memory=choice.memory,
        progress=Progress(choice.curriculum and choice.curriculum * accumulation, choice.cycle),
    )
    collator = VideoCollator(
        vocabulary,
        answers=choice.answers if choice.answer_head is not None else (),
        actions=choice.actions if choice.action_head is not None else (),
        domains=choice.domains,
        sampling=choice.sampling,
        size=None if choice.features is not None else choice.size,
        feature_rate=choice.feature_rate,
        cells=choice.cells if objective.cells else None,
        captions=captions,
        decoder=choice.file_decoder,
    )
    return LongVideo(
        reading=reading,
        heads=_build_heads(choice, objective, encoder.width, len(vocabulary), captions),
        collator=collator,
        decoder=None if choice.action_head is None else choice.decoder.build(choice.actions),
        answers=choice.answers,
        domains=choice.domains,
        by_domain=None
        if by_domain is None
        else by_domain.build(module=reading.reader, width=encoder.width, names=choice.domains),
    )


def build_captions(choice: VideoChoice) -> VideoCaptions | None:
    """Build what finds captions and knows their words; None for a model that writes none.

    Raises:
        ConfigError: `caption_words` or `caption_requests` is empty, or holds what is no word.
    """
    if choice.caption_head is None:
        return None
    return VideoCaptions(
        choice.caption_words,
        requests=choice.caption_requests,
        longest=choice.caption_head.longest,
    )


def _build_heads(
    choice: VideoChoice,
    objective: ObjectiveChoice,
    width: int,
    words: int,
    captions: VideoCaptions | None,
) -> VideoHeads:
    attributes = {
        name: 1 + len(lookup(MOTION_LABELS, name, "dense attribute")) for name in objective.cells
    }
    answers, actions = choice.answer_head, choice.action_head
    return VideoHeads(
        cells=CellHead(width=width, attributes=attributes) if attributes else None,
        answers=None
        if answers is None
        else answers.build(width=width, words=words, answers=len(choice.answers)),
        actions=None
        if actions is None
        else actions.build(width=width, classes=len(choice.actions)),
        frames=None if actions is None else FramePool(width=width),
        captions=None
        if captions is None or choice.caption_head is None
        else choice.caption_head.build(width=width, tokens=len(captions.vocabulary)),
    )


def video_quality(model: LongVideo, samples: Sequence[Sample]) -> Mapping[str, float]:
    """Return how well a model does on samples with truth.

    Returns:
        `accuracy` of answers, and `accuracy.<kind>`; `map`, the mean average precision of actions
        over temporal IoU 0.3 to 0.7; `cells.<attribute>`, the share of cells that show or do
        something and are told right; `caption_loss`, nats for each word of a caption and its end.
        Each as far as the model has the head and samples the truth.
    """
    right: dict[str, list[bool]] = {}
    cells: dict[str, list[int]] = {}
    found, truth = {}, {}
    captions = Captions()
    nats = counted = 0.0
    device = next(model.parameters()).device
    with probing(model):
        for start in range(0, len(samples), BATCH):
            part = samples[start : start + BATCH]
            batch = model.collator(part).to(device)
            assert batch.videos is not None
            named = (outputs := model(batch)).named
            if model.caption_head is not None:
                nats += float(captions.score(outputs, batch)[TERM])
                counted += captions.count(batch)[TERM]
            if model.answer_head is not None:
                kinds = [kind for sample in part for kind in _kinds(model, sample)]
                hits = named[ANSWERS].argmax(-1) == batch.videos.answers
                known = batch.videos.answers != IGNORE
                for kind, hit, real in zip(kinds, hits.tolist(), known.tolist(), strict=True):
                    if real:
                        right.setdefault(kind, []).append(hit)
            if model.decoder is not None:
                decoded = model.decoder.decode(named, batch.videos.durations)
                for sample, one in zip(part, decoded, strict=True):
                    if sample.segments is None:
                        continue
                    found[sample.identifier] = [segment.to_plain() for segment in one.segments]
                    truth[sample.identifier] = [
                        {"label": s.label, "segment": [s.start, s.end]} for s in sample.segments
                    ]
            for name, labels in batch.targets.items():
                shown = (labels > 0) & (labels != IGNORE)
                told = cells.setdefault(name, [0, 0])
                told[0] += int(((named[name].argmax(-1) == labels) & shown).sum())
                told[1] += int(shown.sum())
    numbers = {name: hits / max(1, count) for name, (hits, count) in cells.items()}
    if any(truth.values()):
        precision = temporal_average_precision(found, truth, THRESHOLDS)
        numbers["map"] = precision.mean
    every = [hit for hits in right.values() for hit in hits]
    if every:
        numbers |= {f"accuracy.{kind}": _mean(hits) for kind, hits in sorted(right.items())}
        numbers["accuracy"] = _mean(every)
    if counted:
        numbers[CAPTION_LOSS] = nats / counted
    return numbers


def _kinds(model: LongVideo, sample: Sample) -> list[str]:
    """Return the kind of each question of a sample, "question" where nobody said."""
    questions = len(model.collator.questions(sample))
    return list(sample.truth.get("kinds", ["question"] * questions))


def _mean(hits: Sequence[bool]) -> float:
    return sum(hits) / len(hits)
