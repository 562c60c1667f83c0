"""The report of an evaluation of masks: numbers by maker and by split, with intervals."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from chiasm.evaluation.bootstrap import Bootstrap, Interval
from chiasm.evaluation.mask_overlap import Overlap, scores_of
from chiasm.evaluation.saving import save_report


@dataclass(frozen=True)
class PhraseScore:
    """One phrase with its masks.

    Attributes:
        identifier: Of the sample and the phrase.
        sample: Identifier of the sample.
        phrase: Its words.
        group: Group of the sample.
        thing: Whether it means things rather than stuff; None where nobody said.
        plural: Whether it means several things.
        image: Which image of the sample it means.
        overlaps: With the truth, by maker: the heads, their ceilings, the baselines.
        masks: By head, the mask as COCO run lengths.
        truth: The true mask as COCO run lengths.
    """

    identifier: str
    sample: str
    phrase: str
    group: str
    thing: bool | None
    plural: bool
    image: int
    overlaps: Mapping[str, Overlap]
    masks: Mapping[str, Mapping[str, Any]]
    truth: Mapping[str, Any]

    def to_json(self) -> dict[str, Any]:
        """Return the line of the predictions file."""
        return {
            "id": self.identifier,
            "phrase": self.phrase,
            "group": self.group,
            "thing": self.thing,
            "plural": self.plural,
            "iou": {name: found.iou for name, found in self.overlaps.items()},
            "masks": {name: dict(mask) for name, mask in self.masks.items()},
        }


SPLITS: dict[str, Callable[[PhraseScore], bool]] = {
    "all": lambda score: True,
    "things": lambda score: score.thing is True,
    "stuff": lambda score: score.thing is False,
    "singular": lambda score: not score.plural,
    "plural": lambda score: score.plural,
}
"""The splits of panoptic narrative grounding (Gonzalez et al. 2021): name -> who belongs to it."""


@dataclass(frozen=True)
class SplitResult:
    """Numbers of one split.

    Attributes:
        name: Name of the split or group.
        count: Number of phrases.
        makers: By maker (the heads, their ceilings, the baselines) numbers with intervals by name.
    """

    name: str
    count: int
    makers: Mapping[str, Mapping[str, Interval]]


@dataclass(frozen=True)
class Summary:
    """Numbers of all phrases, by split, and by group of the data.

    Attributes:
        heads: The heads, the best one last.
        splits: `all` first; splits without a phrase are left out.
        groups: By group of the samples, sorted by name; empty where all are of one group.
    """

    heads: tuple[str, ...]
    splits: tuple[SplitResult, ...]
    groups: tuple[SplitResult, ...]

    @property
    def best(self) -> str:
        """The head that the run is known by."""
        return self.heads[-1]


@dataclass(frozen=True)
class GroundingReport:
    """Everything one evaluation of masks found.

    Attributes:
        summary: The numbers.
        scores: One a phrase, in order.
        context: What shaped the numbers: model, prompt, dtype, attention backend, pixel budget,
            baselines, versions, commit, data, hash of identifiers, seed, interval method.
    """

    summary: Summary
    scores: Sequence[PhraseScore]
    context: Mapping[str, Any]

    def numbers(self) -> dict[str, float]:
        """Return means by name.

        `mean_iou` and so on are of the best head; `mean_iou/things` and so on of its splits;
        `coarse.mean_iou` and so on of one maker, with `coarse ceiling` and the baselines.
        """
        found: dict[str, float] = {}
        for split in self.summary.splits:
            behind = "" if split.name == "all" else f"/{split.name}"
            for maker, scores in split.makers.items():
                for name, interval in scores.items():
                    if maker == self.summary.best:
                        found[f"{name}{behind}"] = interval.mean
                    found[f"{maker}.{name}{behind}"] = interval.mean
        return found

    def to_json(self) -> dict[str, Any]:
        """Return the report without predictions, as plain values."""
        return {"suite": "grounding", **asdict(self.summary), "context": dict(self.context)}

    def save(self, path: Path | str) -> tuple[Path, Path]:
        """Write the report, and the predictions beside it as `NAME.predictions.jsonl`.

        Returns:
            Both paths.
        """
        return save_report(path, self.to_json(), (score.to_json() for score in self.scores))


def summarise(scores: Sequence[PhraseScore], bootstrap: Bootstrap) -> Summary:
    """Gather scores into numbers.

    Args:
        scores: At least one.
        bootstrap: How intervals are drawn.
    """
    splits = {name: list(filter(belongs, scores)) for name, belongs in SPLITS.items()}
    names = sorted({score.group for score in scores})
    groups = {name: [score for score in scores if score.group == name] for name in names}
    return Summary(
        heads=tuple(scores[0].masks),
        splits=tuple(_gather(name, part, bootstrap) for name, part in splits.items() if part),
        groups=tuple(
            _gather(name, part, bootstrap) for name, part in groups.items() if len(groups) > 1
        ),
    )


def _gather(name: str, scores: Sequence[PhraseScore], bootstrap: Bootstrap) -> SplitResult:
    clusters = [score.sample for score in scores]
    makers = {
        maker: scores_of([score.overlaps[maker] for score in scores], clusters, bootstrap)
        for maker in scores[0].overlaps
    }
    return SplitResult(name, len(scores), makers)
