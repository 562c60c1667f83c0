"""What a module does differently by domain: adapters on its linear layers, experts on its states.

routing = domains.choose(x, mask, sizes, known)
with domains.through(routing):
states = module(x)
states = domains.refine(states, routing)
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from pydantic import model_validator
from torch import Tensor, nn

from chiasm.core.config import Config
from chiasm.core.errors import InputError
from chiasm.layers.experts import Experts, ExpertsConfig
from chiasm.layers.low_rank import LowRankAdapters, LowRankConfig
from chiasm.layers.routing import Router, RouterConfig, Routing

DOMAIN_NAMES = ("sports", "tutorials", "news", "general")
"""Domains that a model has unless it is told others."""


class DomainsConfig(Config):
    """What differs by domain.

    Attributes:
        adapters: The form of one adapter a domain; null for none.
        experts: The form of one expert a domain; null for none.
        router: What finds the domains of a row; null where each row says its own.
    """

    adapters: LowRankConfig | None = LowRankConfig()
    experts: ExpertsConfig | None = None
    router: RouterConfig | None = RouterConfig()

    @model_validator(mode="after")
    def _differs(self) -> DomainsConfig:
        if self.adapters is None and self.experts is None:
            raise ValueError("domains without adapters or experts differ in nothing; give either")
        return self

    def build(
        self, *, module: nn.Module, width: int, names: Sequence[str] = DOMAIN_NAMES
    ) -> Domains:
        """Put domains on a module that reads and gives tokens of a width; adapters sit inside it.

        Raises:
            ConfigError: A name cannot be an adapter's, or a target of the adapters is no linear
                layer of the module.
            InputError: The module already carries adapters, or has no linear layer inside; or the
                router takes more domains than there are.
        """
        count = len(names)
        return Domains(
            names=names,
            router=None if self.router is None else self.router.build(width=width, choices=count),
            experts=None if self.experts is None else self.experts.build(width=width, count=count),
            adapters=None if self.adapters is None else self.adapters.build(module, names),
        )


class Domains(nn.Module):
    """Adapters and experts, and what sends rows through them.

    From now on rows that nobody sends `through` are an error in the module.

    Args:
        names: The domains.
        adapters: On the module, one a domain, in this order; None for none.
        experts: One a domain; None for none.
        router: Finds the domains of a row; None where each row says its own.
    """

    def __init__(
        self,
        *,
        names: Sequence[str],
        adapters: LowRankAdapters | None,
        experts: Experts | None,
        router: Router | None,
    ) -> None:
        super().__init__()
        self.names = tuple(names)
        self.adapters = adapters
        self.experts = experts
        self.router = router
        if adapters is not None:
            adapters.demand_route()

    def choose(
        self,
        x: Tensor,
        mask: Tensor | None = None,
        sizes: Tensor | None = None,
        known: Tensor | None = None,
    ) -> Routing:
        """Find the domains of rows of tokens.

        Args:
            x: float (B, N, D), what the module will read.
            mask: bool (B, N), True for a real token; None where all are.
            sizes: (B, N), how many original tokens each stands for; None for one each.
            known: int64 (B,), place of each row's domain among `names`, or `IGNORE`; read where
                there is no router. A row of no known domain goes through no adapter and expert.

        Raises:
            InputError: There is no router, and nobody said the domains.
        """
        if self.router is not None:
            found: Routing = self.router(x, mask, sizes)
            return found
        if known is None:
            raise InputError(
                f"these domains ({', '.join(self.names)}) have no router, and the rows do not say "
                "theirs; give the domain of each row, or a router"
            )
        return Routing.known(known, len(self.names))

    @contextmanager
    def through(self, routing: Routing) -> Iterator[None]:
        """Send rows through their adapters while the block runs; see `LowRankAdapters.route`."""
        if self.adapters is None:
            yield
            return
        with self.adapters.route(routing):
            yield

    def refine(self, states: Tensor, routing: Routing, mask: Tensor | None = None) -> Tensor:
        """Return what the experts make of states, float (B, N, D), zero where `mask` is False."""
        if self.experts is None:
            return states
        refined: Tensor = self.experts(states, routing)
        return refined if mask is None else refined.masked_fill(~mask[..., None], 0.0)
