"""The part of a recipe that says which terms the loss has, and their weights."""

from __future__ import annotations

from pydantic import Field, model_validator

from chiasm.core.config import Config
from chiasm.objectives.actions import Actions, ActionsConfig, ActionSmoothness
from chiasm.objectives.codebook import PICTURE_TERMS
from chiasm.objectives.gate import DiversityConfig
from chiasm.objectives.routing import RouterTerms

ACTION_TERMS = tuple(
    term.removeprefix("actions.") for term in (*Actions.terms, *ActionSmoothness.terms)
)
"""Terms of the loss of actions."""

ROUTER_TERMS = tuple(term.removeprefix("router.") for term in RouterTerms.terms)
"""Terms of the loss of routers."""

MASK_TERMS = tuple(
    f"{head}.{term}" for head in ("coarse", "refined") for term in ("bce", "dice", "balanced")
)
"""Terms of the loss of masks."""


class ObjectiveChoice(Config):
    """The terms of the loss and their weights. A term that is absent is not computed."""

    tokens: float | None = Field(default=None, ge=0)
    """Weight of the next-token loss."""
    cells: dict[str, float] = Field(default_factory=dict)
    """Weight of the dense loss by attribute (`shape`, `colour`, `texture`, `size`)."""
    masks: dict[str, float] = Field(default_factory=dict)
    """Weights of `coarse.bce`, `coarse.dice`, `refined.bce` and `refined.dice`; also
    `coarse.balanced` and `refined.balanced`, cross-entropy averaged inside and outside the mask
    apart."""
    masks_inside: float = Field(default=0.5, gt=0, lt=1)
    """Share of the inside in these balanced terms."""
    codes: float | None = Field(default=None, ge=0)
    """Weight of the loss of a drawn picture's codes."""
    mask_quality: float | None = Field(default=None, ge=0)
    """Weight of the squared error of the refiner's guess of its own intersection over union."""
    pictures: dict[str, float] = Field(default_factory=dict)
    """Weights of `absolute`, `squared` and `edges`, of what a tokenizer draws again, and of
    `codebook` and `commitment`, of its codes."""
    answers: float | None = Field(default=None, ge=0)
    """Weight of the loss of answers out of a closed set, about videos."""
    router: dict[str, float] = Field(default_factory=dict)
    """Weights of `domain` and `balance` of the router of a model with domains; one that is left out
    weighs 0."""
    captions: float | None = Field(default=None, ge=0)
    """Weight of the loss of captions of videos, for each word and the end."""
    actions: dict[str, float] = Field(default_factory=dict)
    """Weights of `classes`, `overlap` and `centres` of the head of actions; one that is left out
    weighs 1 once there is another. `smoothness`, the penalty on scores that jump from moment to
    moment, is computed where it is named."""
    actions_reading: ActionsConfig = ActionsConfig()
    """How these losses are computed."""
    diversity: float | None = Field(default=None, ge=0)
    """Weight of the gate's diversity (`diversity_loss_weight` of a `config.json`)."""
    diversity_reading: DiversityConfig = DiversityConfig()
    """Which reading of diversity."""

    @model_validator(mode="after")
    def _some_term(self) -> ObjectiveChoice:
        unknown = sorted(set(self.masks) - set(MASK_TERMS))
        if unknown:
            raise ValueError(f"unknown terms of `masks`: {unknown}; known: {', '.join(MASK_TERMS)}")
        strange = sorted(set(self.pictures) - set(PICTURE_TERMS))
        if strange:
            raise ValueError(
                f"unknown terms of `pictures`: {strange}; known: {', '.join(PICTURE_TERMS)}"
            )
        foreign = sorted(set(self.actions) - set(ACTION_TERMS))
        if foreign:
            raise ValueError(
                f"unknown terms of `actions`: {foreign}; known: {', '.join(ACTION_TERMS)}"
            )
        other = sorted(set(self.router) - set(ROUTER_TERMS))
        if other:
            raise ValueError(
                f"unknown terms of `router`: {other}; known: {', '.join(ROUTER_TERMS)}"
            )
        balanced = any(term.endswith(".balanced") for term in self.masks)
        if "masks_inside" in self.model_fields_set and not balanced:
            raise ValueError(
                "`masks_inside` is of the terms `coarse.balanced` and `refined.balanced` of "
                "`masks`: give one of them, or leave it out"
            )
        if self.given <= {"router"}:
            raise ValueError(
                "no term: give at least one of `tokens`, `codes`, `cells`, `masks`, "
                "`mask_quality`, `pictures`, `answers`, `captions`, `actions` and `diversity`"
            )
        return self

    @property
    def given(self) -> frozenset[str]:
        """Names of the terms, and of the groups of terms, that are there."""
        single = {
            "tokens": self.tokens,
            "codes": self.codes,
            "mask_quality": self.mask_quality,
            "answers": self.answers,
            "captions": self.captions,
            "diversity": self.diversity,
        }
        groups = {
            "cells": self.cells,
            "masks": self.masks,
            "pictures": self.pictures,
            "actions": self.actions,
            "router": self.router,
        }
        there = {name for name, weight in single.items() if weight is not None}
        return frozenset(there | {name for name, weights in groups.items() if weights})
