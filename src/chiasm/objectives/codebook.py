"""Losses of a tokenizer of pictures: what it draws again, how far codes and latents lie apart."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from torch import Tensor

from chiasm.core.batch import Batch
from chiasm.core.errors import InputError
from chiasm.core.outputs import Outputs

PICTURES = "pictures"
"""Name of the truth in `Batch.targets` and of what was drawn in `Outputs.named`."""

LATENTS, CHOSEN, USED = "codes.latents", "codes.chosen", "codes.used"


class PictureCodes:
    """Terms `pictures.<name>`, each the mean over a picture's numbers, summed over pictures.

    - `absolute`, `squared`: error of what was drawn (`Outputs.named["pictures"]`, float
      (P, 3, H, W)) against `Batch.targets["pictures"]`, RGB in [-1, 1]
    - `edges`: absolute error of the differences between neighbours, along both axes (Mathieu et
      al., 2016, arXiv:1511.05440, eq. 6 with alpha 1), which is what blurred outlines get wrong
    - `codebook`: squared error of the chosen codes (`codes.chosen`, float (P, n, d)) against the
      latents (`codes.latents`); it moves the codebook alone
    - `commitment`: squared error of the latents against what the decoder drew from (`codes.used`,
      float (P, n, d)): the codes, or the latents themselves, which costs nothing; it moves the
      encoder alone (van den Oord et al., 2017, arXiv:1711.00937, eq. 3, averaged over cells and d)

    Args:
        terms: Names of the terms scored, without `pictures.`.
    """

    def __init__(self, terms: Sequence[str]) -> None:
        self.names = tuple(terms)
        self.terms = tuple(f"{PICTURES}.{name}" for name in self.names)

    def count(self, batch: Batch) -> dict[str, float]:
        """Return, for each term, the number of pictures."""
        truth = batch.targets.get(PICTURES)
        return dict.fromkeys(self.terms, 0.0 if truth is None else float(len(truth)))

    def score(self, outputs: Outputs, batch: Batch) -> dict[str, Tensor]:
        """Return, by term, the loss summed over pictures.

        Raises:
            InputError: The batch or the model lacks what a term compares, or their sizes differ.
        """
        return {
            f"{PICTURES}.{name}": _TERMS[name](outputs.named, batch.targets) for name in self.names
        }


def _absolute(named: Mapping[str, Tensor], targets: Mapping[str, Tensor]) -> Tensor:
    drawn, truth = _pictures(named, targets)
    return _mean_of_each(drawn - truth, "absolute")


def _squared(named: Mapping[str, Tensor], targets: Mapping[str, Tensor]) -> Tensor:
    drawn, truth = _pictures(named, targets)
    return _mean_of_each(drawn - truth, "squared")


def _edges(named: Mapping[str, Tensor], targets: Mapping[str, Tensor]) -> Tensor:
    drawn, truth = _pictures(named, targets)
    error = drawn - truth
    return _mean_of_each(error.diff(dim=2), "absolute") + _mean_of_each(
        error.diff(dim=3), "absolute"
    )


def _codebook(named: Mapping[str, Tensor], targets: Mapping[str, Tensor]) -> Tensor:
    chosen, latents = _find(named, CHOSEN), _find(named, LATENTS)
    return _mean_of_each(chosen - latents.detach(), "squared")


def _commitment(named: Mapping[str, Tensor], targets: Mapping[str, Tensor]) -> Tensor:
    used, latents = _find(named, USED), _find(named, LATENTS)
    return _mean_of_each(used.detach() - latents, "squared")


def _mean_of_each(error: Tensor, power: str) -> Tensor:
    values = error.abs() if power == "absolute" else error.square()
    return values.flatten(1).mean(1).sum()


def _pictures(named: Mapping[str, Tensor], targets: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
    drawn, truth = _find(named, PICTURES), targets.get(PICTURES)
    if truth is None:
        raise InputError(
            f"the batch has no truth {PICTURES!r}; it has {sorted(targets) or 'none'}. Collate "
            "with PictureCollator"
        )
    if drawn.shape != truth.shape:
        raise InputError(
            f"pictures of shape {tuple(drawn.shape)} were drawn, the truth has "
            f"{tuple(truth.shape)}; draw each picture at its own size"
        )
    return drawn, truth


def _find(named: Mapping[str, Tensor], name: str) -> Tensor:
    if name not in named:
        raise InputError(
            f"the model gives no {name!r}; it gives {sorted(named) or 'nothing'}. Leave the terms "
            "that need it out of the objective"
        )
    return named[name]


_TERMS: dict[str, Callable[[Mapping[str, Tensor], Mapping[str, Tensor]], Tensor]] = {
    "absolute": _absolute,
    "squared": _squared,
    "edges": _edges,
    "codebook": _codebook,
    "commitment": _commitment,
}
"""Name to loss."""

PICTURE_TERMS = tuple(_TERMS)
"""Names of the terms, without `pictures.`."""
