"""Losses of masks: cross-entropy, plain and balanced, and Dice, of each head with masks."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence

import torch
from pydantic import Field
from torch import Tensor, nn

from chiasm.core.batch import Batch
from chiasm.core.config import Config
from chiasm.core.errors import InputError
from chiasm.core.outputs import Outputs


class MasksConfig(Config):
    """Cross-entropy and Dice of masks.

    Attributes:
        heads: Names of the heads scored (`coarse`, `refined`); each has the terms `<head>.bce`
            and `<head>.dice`.
        balanced: Those of them that also have the term `<head>.balanced`.
        inside: Share of that term that the inside of the mask has; the outside has the rest.
    """

    heads: tuple[str, ...] = Field(default=("coarse", "refined"), min_length=1)
    balanced: tuple[str, ...] = ()
    inside: float = Field(default=0.5, gt=0, lt=1)

    def build(self) -> Masks:
        """Build the objective."""
        return Masks(self.heads, self.balanced, self.inside)


class Masks:
    """Terms `<head>.bce` and `<head>.dice`: one number a phrase, as in F-LMM (arXiv:2406.05821).

    Predictions are `Outputs.masks[head]`, truth is `Batch.phrases.masks`, brought to each
    prediction's size at the nearest pixel. Phrases of every size weigh the same.

    Args:
        heads: Names of the heads scored.
        balanced: Those of them that also have the term `<head>.balanced`.
        inside: Share of that term that the inside of the mask has.
    """

    def __init__(
        self,
        heads: Sequence[str] = ("coarse", "refined"),
        balanced: Sequence[str] = (),
        inside: float = 0.5,
    ) -> None:
        self.heads = tuple(heads)
        further = {"balanced": functools.partial(balanced_cross_entropy, share=inside)}
        self._losses = {head: _TERMS | (further if head in balanced else {}) for head in self.heads}
        self.terms = tuple(f"{head}.{term}" for head in self.heads for term in self._losses[head])

    def count(self, batch: Batch) -> dict[str, float]:
        """Return, for each term, the number of phrases whose mask is known."""
        return dict.fromkeys(self.terms, float(len(known_masks(batch))))

    def score(self, outputs: Outputs, batch: Batch) -> dict[str, Tensor]:
        """Return, by term, the loss summed over phrases.

        Raises:
            InputError: A head predicts no masks, or not one a phrase.
        """
        truths = known_masks(batch)
        if not truths:
            zero = torch.zeros((), device=batch.input_ids.device)
            return dict.fromkeys(self.terms, zero)
        found: dict[str, Tensor] = {}
        for head in self.heads:
            pairs = _stacked(_predictions(outputs, head, batch), truths)
            for term, loss in self._losses[head].items():
                found[f"{head}.{term}"] = torch.stack([loss(*pair).sum() for pair in pairs]).sum()
        return found


class MaskQualityConfig(Config):
    """How well a refiner guesses its own intersection over union.

    Attributes:
        head: The head whose guesses are scored.
    """

    head: str = "refined"

    def build(self) -> MaskQuality:
        """Build the objective."""
        return MaskQuality(self.head)


class MaskQuality:
    """Term `<head>.quality`: squared error of the guessed intersection over union, one a phrase.

    Guesses are `Outputs.named["<head>.scores"]`, float (P,) (Kirillov et al., 2023,
    arXiv:2304.02643, appendix A).

    Args:
        head: The head whose guesses are scored.
    """

    def __init__(self, head: str = "refined") -> None:
        self.head = head
        self.terms = (f"{head}.quality",)

    def count(self, batch: Batch) -> dict[str, float]:
        """Return the number of phrases whose mask is known."""
        return {self.terms[0]: float(len(known_masks(batch)))}

    def score(self, outputs: Outputs, batch: Batch) -> dict[str, Tensor]:
        """Return the squared error summed over phrases.

        Raises:
            InputError: The head predicts no masks or no scores, or not one a phrase.
        """
        truths = known_masks(batch)
        if not truths:
            return {self.terms[0]: torch.zeros((), device=batch.input_ids.device)}
        name = f"{self.head}.scores"
        if name not in outputs.named:
            raise InputError(
                f"the model gives no {name!r}; it gives {sorted(outputs.named)}. Leave the term "
                f"{self.terms[0]!r} out"
            )
        predictions = _predictions(outputs, self.head, batch)
        overlaps = {index: overlap(predictions[index], truth) for index, truth in truths.items()}
        errors = outputs.named[name][list(truths)].float() - torch.stack(list(overlaps.values()))
        return {self.terms[0]: errors.square().sum()}


def cross_entropy(logits: Tensor, truth: Tensor) -> Tensor:
    """Return the binary cross-entropy in nats of each mask, averaged over its pixels.

    Args:
        logits: float (P, h, w).
        truth: bool (P, H, W); read at the nearest pixel.

    Returns:
        float32 (P,).
    """
    target = fit_truth(truth, logits).float()
    losses = nn.functional.binary_cross_entropy_with_logits(
        logits.float(), target, reduction="none"
    )
    return losses.mean(dim=(1, 2))


def balanced_cross_entropy(logits: Tensor, truth: Tensor, share: float = 0.5) -> Tensor:
    """Return share * mean inside + (1 - share) * mean outside the true mask, of the cross-entropy.

    At one half a small mask weighs as much as the rest of its picture, so that a score above zero
    means "more likely here than elsewhere" (class-balanced cross-entropy; Xie and Tu, 2015,
    arXiv:1504.06375, eq. 2). With a higher share masks grow where the head is unsure, which
    intersection over union rewards. A mask of nothing or of everything has only one of the two
    means, and the other counts as 0.

    Args:
        logits: float (P, h, w).
        truth: bool (P, H, W); read at the nearest pixel.
        share: Of the inside, in (0, 1).

    Returns:
        float32 (P,), in nats.
    """
    target = fit_truth(truth, logits).float()
    losses = nn.functional.binary_cross_entropy_with_logits(
        logits.float(), target, reduction="none"
    )
    inside = (losses * target).sum(dim=(1, 2)) / target.sum(dim=(1, 2)).clamp_min(1)
    outside = (losses * (1 - target)).sum(dim=(1, 2)) / (1 - target).sum(dim=(1, 2)).clamp_min(1)
    return share * inside + (1 - share) * outside


def dice(logits: Tensor, truth: Tensor) -> Tensor:
    """Return 1 - (2 sum(p t) + 1) / (sum(p) + sum(t) + 1) of each mask, p = sigmoid(logits).

    The form without squares (Milletari et al., 2016, arXiv:1606.04797, eq. 8 has them), smoothed
    by 1, so that an empty mask has a finite loss.

    Args:
        logits: float (P, h, w).
        truth: bool (P, H, W); read at the nearest pixel.

    Returns:
        float32 (P,).
    """
    target = fit_truth(truth, logits).float()
    shares = logits.float().sigmoid()
    shared = (shares * target).sum(dim=(1, 2))
    return 1 - (2 * shared + 1) / (shares.sum(dim=(1, 2)) + target.sum(dim=(1, 2)) + 1)


@torch.no_grad()
def overlap(logits: Tensor, truth: Tensor) -> Tensor:
    """Return intersection over union of a mask, cut at logit 0, and its truth.

    Args:
        logits: float (h, w).
        truth: bool (H, W); read at the nearest pixel.

    Returns:
        float32 scalar; 1 where both are empty.
    """
    mask, target = logits > 0, fit_truth(truth[None], logits[None])[0]
    shared, either = (mask & target).sum().float(), (mask | target).sum().float()
    return torch.where(either > 0, shared / either.clamp_min(1), 1.0)


def fit_truth(truth: Tensor, prediction: Tensor) -> Tensor:
    """Bring truth, bool (P, H, W), to the size of predictions (P, h, w), at the nearest pixel.

    The pixel is the one in which the middle of the prediction's place lies, so nothing moves by
    half a pixel. A mask that has pixels and none of those is where most of it lies: as a mask of
    nothing it would teach that what the phrase means is not there.
    """
    size = (prediction.shape[1], prediction.shape[2])
    if tuple(truth.shape[1:]) == size:
        return truth
    pixels = truth[None].to(torch.uint8)
    fitted = nn.functional.interpolate(pixels, size, mode="nearest-exact")[0].bool()
    missed = truth.flatten(1).any(1) & ~fitted.flatten(1).any(1)
    if bool(missed.any()):
        shares = nn.functional.adaptive_avg_pool2d(truth[missed].float(), size)
        fitted[missed] = shares == shares.amax((1, 2), keepdim=True)
    return fitted


def known_masks(batch: Batch) -> dict[int, Tensor]:
    """Return the truth of the batch's phrases by their position, without those of no pixels.

    Raises:
        InputError: There are masks, but not one a phrase.
    """
    phrases = batch.phrases
    if phrases is None or not phrases.masks:
        return {}
    if len(phrases.masks) != len(phrases):
        raise InputError(
            f"the batch has {len(phrases)} phrases and {len(phrases.masks)} masks; give each "
            "phrase its mask (of no pixels where it is not known), or none of them"
        )
    return {index: mask for index, mask in enumerate(phrases.masks) if mask.numel()}


def _predictions(outputs: Outputs, head: str, batch: Batch) -> tuple[Tensor, ...]:
    count = 0 if batch.phrases is None else len(batch.phrases)
    if head not in outputs.masks:
        raise InputError(
            f"the model predicts no masks {head!r}; it predicts {sorted(outputs.masks) or 'none'}. "
            "Build it with this head or leave its terms out of the objective"
        )
    masks = outputs.masks[head]
    if len(masks) != count:
        raise InputError(
            f"the head {head!r} predicts {len(masks)} masks for {count} phrases; it must predict "
            "one a phrase"
        )
    return masks


def _stacked(
    predictions: Sequence[Tensor], truths: Mapping[int, Tensor]
) -> list[tuple[Tensor, Tensor]]:
    """Stack predictions and truths of equal sizes: pairs (P, h, w), (P, H, W)."""
    groups: dict[tuple[torch.Size, torch.Size], list[int]] = {}
    for index, truth in truths.items():
        groups.setdefault((predictions[index].shape, truth.shape), []).append(index)
    return [
        (torch.stack([predictions[i] for i in group]), torch.stack([truths[i] for i in group]))
        for group in groups.values()
    ]


_TERMS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {"bce": cross_entropy, "dice": dice}
