"""The checks that all metrics over lists share: same length, nothing empty, each fault named."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

from chiasm.core.errors import InputError

Left = TypeVar("Left")
Right = TypeVar("Right")


def check_lengths(metric: str, predictions: Sequence[Left], truths: Sequence[Right]) -> None:
    """Refuse lists that do not pair up, or that hold nothing to average over.

    Raises:
        InputError: The lists differ in length or are empty.
    """
    if len(predictions) != len(truths):
        raise InputError(
            f"{metric}: {len(predictions)} predictions for {len(truths)} truths; "
            "give one truth for each prediction, in the same order"
        )
    if not predictions:
        raise InputError(f"{metric}: no items; a mean over nothing is undefined, give at least one")


def check_texts(
    metric: str, hypotheses: Sequence[str], references: Sequence[Sequence[str]]
) -> None:
    """Refuse texts that are not one string and one non-empty list of strings an item.

    Raises:
        InputError: A length differs, a list is empty, or an item has the wrong type; the message
            names the item.
    """
    check_lengths(metric, hypotheses, references)
    for index, (hypothesis, accepted) in enumerate(zip(hypotheses, references, strict=True)):
        if not isinstance(hypothesis, str):
            raise InputError(
                f"{metric}: item {index}: hypothesis {hypothesis!r} is no text; give a str"
            )
        if isinstance(accepted, str):
            raise InputError(
                f"{metric}: item {index}: references are the one text {accepted!r}; "
                "give a list of texts, for one reference [text]"
            )
        if not accepted:
            raise InputError(f"{metric}: item {index}: no reference; give at least one text")
        for text in accepted:
            if not isinstance(text, str):
                raise InputError(f"{metric}: item {index}: reference {text!r} is no text")
