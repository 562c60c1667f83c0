"""Every domain equally often, however many samples each has."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from chiasm.core.errors import InputError
from chiasm.core.protocols import Dataset
from chiasm.core.samples import Sample
from chiasm.data.mixture import Mixture
from chiasm.data.splitting import Part


def group_of(sample: Sample) -> str:
    """Return a sample's group, which in videos is the domain."""
    return sample.group


def domain_weights(sizes: Mapping[str, int], strength: float = 1.0) -> dict[str, float]:
    """Return the share of each domain in the draws.

    A sample is drawn in inverse proportion to the frequency of its domain: weight (1 / n) for each
    of n samples, so that each domain has the same share. `strength` goes between that and no
    balancing: a sample has the weight (1 / n) ** strength.

    Args:
        sizes: Samples of each domain, by name.
        strength: 1 for equal shares of domains, 0 for equal shares of samples.

    Returns:
        By name, shares that sum to 1.

    Raises:
        InputError: No domain, an empty one, or a strength outside [0, 1].
    """
    if not sizes or min(sizes.values()) < 1 or not 0 <= strength <= 1:
        raise InputError(
            f"domains {dict(sizes)}, strength {strength}; allowed: at least one domain, each with "
            "a sample, and a strength in [0, 1]"
        )
    weights = {name: size ** (1 - strength) for name, size in sizes.items()}
    total = sum(weights.values())
    return {name: weight / total for name, weight in weights.items()}


def balanced(
    dataset: Dataset,
    domain_of: Callable[[Sample], str] = group_of,
    *,
    strength: float = 1.0,
    seed: int = 0,
    shuffle: bool = True,
) -> Mixture:
    """Return a dataset as a mixture of its domains, balanced by `domain_weights`.

    Every sample is read once to learn its domain; media are not opened.

    Args:
        dataset: Samples of several domains.
        domain_of: Tells the domain of a sample; by default its group.
        strength: See `domain_weights`.
        seed: Seed of the order.
        shuffle: Whether samples are shuffled within each domain.

    Raises:
        InputError: A sample has no domain, or an argument is out of range.
    """
    places: dict[str, list[int]] = {}
    for index in range(len(dataset)):
        sample = dataset[index]
        domain = domain_of(sample)
        if not domain:
            raise InputError(
                f"sample {sample.identifier!r} has no domain; give each record a 'domain' or a "
                "'group', or a domain_of that knows"
            )
        places.setdefault(domain, []).append(index)
    parts = {name: Part(dataset, tuple(places[name])) for name in sorted(places)}
    sizes = {name: len(part) for name, part in parts.items()}
    return Mixture(parts, domain_weights(sizes, strength), seed=seed, shuffle=shuffle)
