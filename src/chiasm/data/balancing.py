"""Every domain equally often, however many samples each has."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from chiasm.core.errors import InputError
from chiasm.core.protocols import Dataset
from chiasm.data.splitting import Part


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


def parts_by_domain(
    dataset: Dataset, domain_at: Callable[[int], str] | None = None
) -> dict[str, Part]:
    """Return a dataset as one part a domain, in the order of their names.

    Args:
        dataset: Samples of several domains.
        domain_at: Tells the domain of the sample at an index. By default its group, for which
            every sample is read once; media are not opened.

    Raises:
        InputError: A sample has no domain.
    """
    places: dict[str, list[int]] = {}
    for index in range(len(dataset)):
        domain = dataset[index].group if domain_at is None else domain_at(index)
        if not domain:
            raise InputError(
                f"sample {dataset[index].identifier!r} has no domain; give each record a 'domain' "
                "or a 'group', or balance nothing"
            )
        places.setdefault(domain, []).append(index)
    return {name: Part(dataset, tuple(places[name])) for name in sorted(places)}
