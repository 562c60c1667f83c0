"""How many tokens each clip keeps, and each span of a clip: whole numbers that sum exactly."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

from pydantic import Field, model_validator

from chiasm.core.config import Config
from chiasm.core.errors import CompressionError, InputError

Spread = Literal["even", "shared", "content"]


class BudgetConfig(Config):
    """How many tokens are kept.

    Attributes:
        ratio: Part of the tokens that is kept, in (0, 1].
        spread: `even`: this part of every clip. `shared`: this part of the batch, more of it where
            more is important; the total does not depend on the content. `content`: a clip with the
            usual importance keeps this part, others in proportion; rows are padded.
        lowest: Smallest part of a clip that `shared` and `content` keep.
        highest: Largest part.
        usual: Mean importance of a clip that keeps exactly `ratio` under `content`.
    """

    ratio: float = Field(default=0.5, gt=0, le=1)
    spread: Spread = "even"
    lowest: float = Field(default=0.25, gt=0, le=1)
    highest: float = Field(default=1.0, gt=0, le=1)
    usual: float = Field(default=0.25, gt=0, le=1)

    @model_validator(mode="after")
    def _in_bounds(self) -> BudgetConfig:
        if self.spread != "even" and not self.lowest <= self.ratio <= self.highest:
            raise ValueError(
                f"ratio {self.ratio} outside of its bounds [{self.lowest}, {self.highest}]; move "
                "the ratio or the bounds"
            )
        return self

    def build(self) -> Budget:
        """Build the budget."""
        return Budget(
            ratio=self.ratio,
            spread=self.spread,
            bounds=(self.lowest, self.highest),
            usual=self.usual,
        )


class Budget:
    """Turns a ratio into numbers of tokens.

    Args:
        ratio: As in the configuration.
        spread: As in the configuration.
        bounds: Smallest and largest part of a clip.
        usual: As in the configuration.
    """

    def __init__(
        self,
        *,
        ratio: float,
        spread: Spread = "even",
        bounds: tuple[float, float] = (0.25, 1.0),
        usual: float = 0.25,
    ) -> None:
        self.ratio = ratio
        self.spread = spread
        self.bounds = bounds
        self.usual = usual

    def allot(
        self,
        counts: Sequence[int],
        content: Sequence[float] | None = None,
        ratio: float | None = None,
    ) -> list[int]:
        """Return how many tokens each clip keeps, at least 1.

        Args:
            counts: Tokens of each clip.
            content: Mean importance of each clip in [0, 1]; needed unless `spread` is `even`.
            ratio: Instead of the configured one, as a curriculum does. A ratio outside of the
                bounds moves the bound that it passes.

        Raises:
            InputError: Content is needed and not given, or the ratio is not in (0, 1].
        """
        ratio = self.ratio if ratio is None else ratio
        if not 0 < ratio <= 1:
            raise InputError(f"ratio {ratio} of tokens to keep; give a number in (0, 1]")
        if self.spread == "even":
            return [part_of(count, ratio) for count in counts]
        if content is None or len(content) != len(counts):
            raise InputError(
                f"a budget spread by {self.spread!r} needs the importance of all {len(counts)} "
                "clips; give it, or spread 'even'"
            )
        lowest, highest = min(self.bounds[0], ratio), max(self.bounds[1], ratio)
        if self.spread == "content":
            parts = [min(max(ratio * much / self.usual, lowest), highest) for much in content]
            return [part_of(count, part) for count, part in zip(counts, parts, strict=True)]
        least = [part_of(count, lowest) for count in counts]
        most = [part_of(count, highest) for count in counts]
        total = min(max(part_of(sum(counts), ratio), sum(least)), sum(most))
        weights = [count * much for count, much in zip(counts, content, strict=True)]
        return apportion(total, weights, least, most)


def part_of(count: int, ratio: float) -> int:
    """Return the whole number nearest to a part of a number of tokens, at least 1."""
    return max(1, math.floor(ratio * count + 0.5))


def apportion(
    total: int, weights: Sequence[float], least: Sequence[int], most: Sequence[int]
) -> list[int]:
    """Divide a total in proportion to weights, within bounds, into whole numbers.

    Every part is its bound, or its weight times one factor that is the same for all; what rounding
    leaves goes to the largest fractions, to the first of equals.

    Args:
        total: What the parts sum to.
        weights: Not negative. Where all are 0, parts are in proportion to `most`.
        least: Smallest value of each part, at least 0.
        most: Largest value of each part.

    Raises:
        CompressionError: The bounds do not admit the total.
    """
    if not sum(least) <= total <= sum(most) or any(
        low > high for low, high in zip(least, most, strict=True)
    ):
        raise CompressionError(
            f"{total} tokens cannot be divided into parts of at least {list(least)} and at most "
            f"{list(most)}; keep between {sum(least)} and {sum(most)}"
        )
    # A part without weight still takes what the others cannot hold.
    base = max(weights, default=0.0) * 1e-9
    shares = [weight + base for weight in weights] if base else [float(high) for high in most]

    def parts(factor: float) -> list[float]:
        return [
            min(max(factor * share, low), high)
            for share, low, high in zip(shares, least, most, strict=True)
        ]

    below, above = 0.0, 1.0
    while sum(parts(above)) < total:
        above *= 2
    for _ in range(100):
        middle = (below + above) / 2
        if sum(parts(middle)) < total:
            below = middle
        else:
            above = middle
    exact = parts(above)
    # Rounded to hide what halving leaves, so that whole parts stay whole.
    whole = [math.floor(round(part, 6)) for part in exact]
    order = sorted(range(len(exact)), key=lambda place: (whole[place] - exact[place], place))
    missing = total - sum(whole)
    while missing:
        for place in order:
            if missing and whole[place] < most[place]:
                whole[place] += 1
                missing -= 1
    return whole
