"""Masks of phrases scored: each head beside its resolution ceiling and masks that never look."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from accelerate import PartialState
from accelerate.utils import gather_object
from torch import Tensor

from chiasm.core.errors import InputError
from chiasm.core.grid import ImageGeometry
from chiasm.core.run_length import encode_run_length
from chiasm.core.samples import Sample
from chiasm.data.locating import phrase_text
from chiasm.evaluation.bootstrap import Bootstrap
from chiasm.evaluation.grounding_report import GroundingReport, PhraseScore, summarise
from chiasm.evaluation.mask_baselines import MaskBaselines, fit_baselines, masks_of
from chiasm.evaluation.mask_ceiling import LEAST, through_cells
from chiasm.evaluation.mask_overlap import as_array, overlap, to_pixels
from chiasm.evaluation.protocols import Described, settings_of
from chiasm.evaluation.provenance import code_commit, fingerprint, installed_versions

SUITE = "grounding"
"""Name of the suite."""

COARSE, REFINED = "coarse", "refined"
CEILING = "ceiling"

Refine = Callable[[Sequence[Tensor]], Sequence[Tensor]]
"""Passes one coarse logit map a phrase, float (h, w) over the whole image, through the refiner."""

Progress = Callable[[int], None]
"""Called with the number of samples just done."""


@dataclass(frozen=True)
class Grounded:
    """What a model made of the phrases of some samples: P phrases, in the order of the samples.

    Attributes:
        masks: By head, for each phrase logits float (h, w) over the whole original image.
        truths: For each phrase bool (H, W) in original pixels.
        geometries: For each phrase the cells that its image was seen in.
        refine: The model's refiner with everything but the coarse masks in place; None without.
        least: Places along the longer side to which the coarse head enlarges smaller grids.
    """

    masks: Mapping[str, Sequence[Tensor]]
    truths: Sequence[Tensor]
    geometries: Sequence[ImageGeometry]
    refine: Refine | None = None
    least: int = LEAST


class Grounder(Described, Protocol):
    """Finds the pixels of phrases."""

    def ground(self, samples: Sequence[Sample]) -> Grounded:
        """Point at all phrases of samples, each in the text that it stands in."""
        ...


@dataclass(frozen=True)
class GroundingOptions:
    """How an evaluation of masks is run.

    Attributes:
        batch_size: Samples a batch.
        train_samples: What the baselines are fitted to; None for the evaluated phrases, which
            flatters the baselines, and the report says so.
        compared: Whether ceiling and baselines stand beside the heads.
        bootstrap: How intervals are drawn.
        data: Name of the data, for the report.
        progress: Called after each batch.
        divided: Whether several processes share the work. False where only one of them evaluates,
            as inside a training run.
    """

    batch_size: int = 8
    train_samples: Sequence[Sample] | None = None
    compared: bool = True
    bootstrap: Bootstrap = field(default_factory=Bootstrap)
    data: str = ""
    progress: Progress | None = None
    divided: bool = True


def evaluate_masks(
    model: Grounder, samples: Iterable[Sample], options: GroundingOptions | None = None
) -> GroundingReport:
    """Point at every phrase of the samples and score the masks.

    Under several processes (`accelerate launch`, `torchrun`) each takes every n-th sample and all
    get the whole report.

    Args:
        model: Finds pixels.
        samples: Samples whose phrases have masks; those without phrases are counted and left out.
        options: How.

    Raises:
        DataError: A mask is broken.
        InputError: There is no phrase, an identifier occurs twice, or the model gave another
            number of masks.
    """
    options = options or GroundingOptions()
    given = list(samples)
    kept = _with_phrases(given, options)
    baselines = _baselines(kept, options) if options.compared else None
    state = PartialState() if options.divided else None
    rank, processes = (state.process_index, state.num_processes) if state else (0, 1)
    mine = list(range(rank, len(kept), processes))
    scored = list(
        zip(mine, _score(model, [kept[i] for i in mine], baselines, options), strict=True)
    )
    by_place = dict(gather_object(scored) if processes > 1 else scored)
    scores = [score for place in range(len(kept)) for score in by_place[place]]
    context = {
        **settings_of(model),
        "data": options.data,
        "samples": len(kept),
        "samples_without_phrases": len(given) - len(kept),
        "phrases": len(scores),
        "identifiers_sha256": fingerprint(score.identifier for score in scores),
        "batch_size": options.batch_size,
        "processes": processes,
        "baselines": None if baselines is None else _told(baselines),
        "intervals": options.bootstrap.method,
        "seed": options.bootstrap.seed,
        "versions": installed_versions(),
        "commit": code_commit(),
    }
    return GroundingReport(summarise(scores, options.bootstrap), tuple(scores), context)


def numbers_of_masks(
    model: Grounder, samples: Sequence[Sample], batch_size: int
) -> Mapping[str, float]:
    """Return plain numbers for a trainer, which evaluates on one process: heads alone.

    Args:
        model: Finds pixels.
        samples: Samples whose phrases have masks.
        batch_size: Samples a batch.
    """
    # Intervals play no part in numbers; two resamples cost nothing.
    options = GroundingOptions(
        batch_size=batch_size, compared=False, divided=False, bootstrap=Bootstrap(resamples=2)
    )
    return evaluate_masks(model, samples, options).numbers()


def _with_phrases(samples: Sequence[Sample], options: GroundingOptions) -> list[Sample]:
    if options.batch_size < 1:
        raise InputError(f"batch size {options.batch_size}; allowed: 1 or more")
    kept = [sample for sample in samples if sample.phrases]
    seen: set[str] = set()
    for sample in kept:
        if sample.identifier in seen:
            raise InputError(
                f"sample {sample.identifier!r} stands twice in the data; identifiers must differ"
            )
        seen.add(sample.identifier)
        for place, phrase in enumerate(sample.phrases):
            if phrase.mask is None:
                raise InputError(
                    f"{sample.origin or sample.identifier}: phrase {place} has no mask to be "
                    "scored against; give one, or use `chiasm predict` to make masks"
                )
    if not kept:
        raise InputError(
            f"evaluation of {options.data or 'the data'}: none of {len(samples)} samples has a "
            "phrase; suite 'grounding' needs phrases with masks"
        )
    return kept


def _baselines(samples: Sequence[Sample], options: GroundingOptions) -> MaskBaselines:
    if options.train_samples is None:
        return fit_baselines(masks_of(samples), "evaluated phrases")
    return fit_baselines(masks_of(options.train_samples), "training phrases")


def _told(baselines: MaskBaselines) -> str:
    return (
        f"fitted to {baselines.count} {baselines.source}: one mask for all, and a centred box of "
        f"{baselines.box:.0%} of each side"
    )


def _score(
    model: Grounder,
    samples: Sequence[Sample],
    baselines: MaskBaselines | None,
    options: GroundingOptions,
) -> list[list[PhraseScore]]:
    """Return for each sample the scores of its phrases."""
    scored: list[list[PhraseScore]] = []
    for start in range(0, len(samples), options.batch_size):
        batch = samples[start : start + options.batch_size]
        found = _checked(model.ground(batch), batch)
        ceilings = _ceilings(found) if options.compared else {}
        place = 0
        for sample in batch:
            scored.append(
                [
                    _score_phrase(sample, index, place + index, found, ceilings, baselines)
                    for index in range(len(sample.phrases))
                ]
            )
            place += len(sample.phrases)
        if options.progress is not None:
            options.progress(len(batch))
    return scored


def _checked(found: Grounded, samples: Sequence[Sample]) -> Grounded:
    wanted = sum(len(sample.phrases) for sample in samples)
    counts = {name: len(masks) for name, masks in found.masks.items()}
    counts |= {"truth": len(found.truths), "geometries": len(found.geometries)}
    if not found.masks or set(counts.values()) != {wanted}:
        raise InputError(
            f"the model gave {counts} for {wanted} phrases (from {samples[0].identifier!r}); it "
            "must give one of each a phrase, in order; rows that the collator drops cannot be "
            "scored"
        )
    return found


def _ceilings(found: Grounded) -> dict[str, Sequence[Tensor]]:
    """Return by head the truth as logits that went the way of that head's masks."""
    coarse = [
        through_cells(truth, geometry, found.least).to(truth.device)
        for truth, geometry in zip(found.truths, found.geometries, strict=True)
    ]
    ceilings: dict[str, Sequence[Tensor]] = {COARSE: coarse} if COARSE in found.masks else {}
    if REFINED in found.masks and found.refine is not None:
        ceilings[REFINED] = found.refine(coarse)
    return ceilings


def _score_phrase(
    sample: Sample,
    index: int,
    place: int,
    found: Grounded,
    ceilings: Mapping[str, Sequence[Tensor]],
    baselines: MaskBaselines | None,
) -> PhraseScore:
    phrase, truth = sample.phrases[index], as_array(found.truths[place])
    size = (truth.shape[0], truth.shape[1])
    masks = {head: to_pixels(logits[place], size) for head, logits in found.masks.items()}
    others = {
        f"{head} {CEILING}": to_pixels(logits[place], size) for head, logits in ceilings.items()
    }
    if baselines is not None:
        others |= baselines.masks(*size)
    return PhraseScore(
        identifier=f"{sample.identifier}#{phrase.identifier or index}",
        sample=sample.identifier,
        phrase=phrase_text(sample.turns, phrase),
        group=sample.group,
        thing=phrase.thing,
        plural=phrase.plural,
        image=phrase.image,
        overlaps={name: overlap(mask, truth) for name, mask in {**masks, **others}.items()},
        masks={head: encode_run_length(mask) for head, mask in masks.items()},
        truth=encode_run_length(truth),
    )
