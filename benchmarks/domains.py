"""Does a router of four adapters beat one shared adapter, on videos of four domains?

    OMP_NUM_THREADS=1 taskset -c 0 python -m benchmarks.domains --output runs/domains.json

A word like "orange" means another colour in each domain of the moving world, so a model has to know
where it is. A small tower and reader learn, on videos of the domain `general` alone, what colour
each cell of each frame shows; then all of that is frozen, and adapters on the reader's linear
layers learn all four domains:

    nothing        the frozen model
    shared         one adapter
    shared x 4     one adapter of four times the rank: as many numbers as four
    router         four adapters, mixed in the shares of a router that nobody tells the domains
    router top 1   as before, each video through one adapter, with the load-balance term
    router taught  as `router`; in training it is told the domains, in the test it is not
    oracle         four adapters, each video through that of its domain, in the test as well

What is counted is the share of cells with a thing in them whose colour is told right, on videos of
the test split, a mean over domains. Each variant may choose its learning rate on the validation
split. Figures are for every seed: seeds differ in the base model, in the adapters and in the order
of the videos.
"""

from __future__ import annotations

import argparse
import copy
import json
import statistics
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks.domain_watcher import (
    GENERAL,
    NAMES,
    QUICK,
    Seen,
    Settings,
    Watcher,
    colour_loss,
    draw_clips,
    learn_base,
    look,
)
from chiasm.evaluation.provenance import code_commit, installed_versions
from chiasm.layers.low_rank import LowRankAdapters, LowRankConfig
from chiasm.layers.routing import Router, RouterConfig, Routing, load_balance

VARIANTS = (
    "nothing",
    "shared",
    "shared x 4",
    "router",
    "router top 1",
    "router taught",
    "oracle",
)


class Variant:
    """A frozen model with adapters, and what sends videos through them."""

    def __init__(self, model: Watcher, name: str, settings: Settings) -> None:
        self.model = copy.deepcopy(model)
        self.name = name
        self.settings = settings
        self.adapters: LowRankAdapters | None = None
        self.router: Router | None = None
        if name == "nothing":
            return
        shared = name.startswith("shared")
        rank = settings.rank * (4 if name == "shared x 4" else 1)
        config = LowRankConfig(rank=rank, alpha=2 * rank, dropout=0.0)
        self.adapters = config.build(self.model.reader, ["all"] if shared else NAMES)
        if shared:
            self.adapters.select("all")
        if name.startswith("router"):
            top = 1 if name == "router top 1" else None
            self.router = RouterConfig(top=top).build(width=settings.width, choices=len(NAMES))

    @property
    def trained(self) -> list[nn.Parameter]:
        """What learns."""
        modules = [*(self.adapters.modules if self.adapters else ()), self.router]
        return [value for one in modules if one is not None for value in one.parameters()]

    def route(self, seen: Seen) -> Routing | None:
        """Choose adapters for videos."""
        if self.router is not None:
            return self.router(seen.tokens.features, seen.tokens.mask, seen.tokens.sizes)
        return Routing.known(seen.domains, len(NAMES)) if self.name == "oracle" else None

    @contextmanager
    def through(self, routing: Routing | None) -> Iterator[None]:
        """Read through the adapters chosen."""
        if self.adapters is None or routing is None:
            yield
            return
        with self.adapters.route(routing):
            yield

    def loss(self, seen: Seen) -> Tensor:
        """What is to be made small."""
        routing = self.route(seen)
        if self.name == "router taught" and routing is not None and routing.logits is not None:
            told = Routing.known(seen.domains, len(NAMES))
            taught = F.cross_entropy(routing.logits, seen.domains)
            with self.through(told):
                return colour_loss(self.model.read(seen.tokens), seen.colours) + taught
        with self.through(routing):
            loss = colour_loss(self.model.read(seen.tokens), seen.colours)
        if routing is None or routing.logits is None:
            return loss
        return loss + self.settings.balance * load_balance(routing.logits, routing.weights)

    @torch.no_grad()
    def measure(self, seen: Seen) -> dict[str, float]:
        """Return the share of things whose colour is told right, by domain and their mean.

        `routed` is the share of videos whose largest share goes to the adapter that their domain
        uses most.
        """
        routing = self.route(seen)
        with self.through(routing):
            told = self.model.read(seen.tokens).argmax(-1)
        shown = seen.colours > 0
        right = (told == seen.colours) & shown
        found = {
            name: float(right[seen.domains == place].sum() / shown[seen.domains == place].sum())
            for place, name in enumerate(NAMES)
        }
        found["mean"] = statistics.fmean(found.values())
        if routing is not None:
            # Each adapter belongs to the domain that uses it most.
            choice = routing.weights.argmax(-1)
            table = torch.zeros(len(NAMES), len(NAMES)).index_put_(
                (choice, seen.domains), torch.ones(len(choice)), accumulate=True
            )
            found["routed"] = float(table.max(1).values.sum() / table.sum())
        return found


def adapt(
    model: Watcher, name: str, settings: Settings, seen: Seen, seed: int, rate: float
) -> Variant:
    """Learn a variant."""
    torch.manual_seed(seed)
    variant = Variant(model, name, settings)
    if not variant.trained:
        return variant
    optimiser = torch.optim.AdamW(variant.trained, lr=rate, weight_decay=0.0)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimiser, rate, total_steps=settings.steps, pct_start=0.1
    )
    chance = torch.Generator().manual_seed(seed)
    for _ in range(settings.steps):
        rows = torch.randint(len(seen.domains), (settings.batch,), generator=chance)
        loss = variant.loss(seen.part(rows))
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        schedule.step()
    return variant


def run_seed(settings: Settings, seed: int) -> dict[str, dict[str, Any]]:
    """One base model, and all variants on it."""
    base = learn_base(
        settings, draw_clips(settings, GENERAL, "train", settings.base_videos, seed), seed
    )
    training, validation, test = (
        look(base, draw_clips(settings, NAMES, split, count, 1000 + seed))
        for split, count in (
            ("train", settings.videos),
            ("validation", settings.held),
            ("test", settings.held),
        )
    )
    found: dict[str, dict[str, Any]] = {}
    for name in VARIANTS:
        tried = []
        for rate in settings.rates if name != "nothing" else (0.0,):
            variant = adapt(base, name, settings, training, seed, rate)
            tried.append((variant.measure(validation)["mean"], rate, variant))
        score, rate, variant = max(tried, key=lambda one: one[0])
        counts = variant.adapters.parameters if variant.adapters else {}
        found[name] = {
            "rate": rate,
            "validation": score,
            "numbers": sum(counts.values()),
            "router": sum(p.numel() for p in variant.router.parameters()) if variant.router else 0,
            **variant.measure(test),
        }
        _say(f"seed {seed}  {name:<14}{found[name]['mean']:.3f}  {found[name].get('routed', '')}")
    return found


def report(settings: Settings, seeds: Sequence[int]) -> dict[str, Any]:
    """Run all seeds and put them side by side."""
    start = time.perf_counter()
    by_seed = {seed: run_seed(settings, seed) for seed in seeds}
    table = {
        name: {
            key: [found[name][key] for found in by_seed.values()]
            for key in ("mean", *NAMES, "numbers", "router", "rate", "routed")
            if key in by_seed[seeds[0]][name]
        }
        for name in VARIANTS
    }
    margins = {
        shared: {
            name: [found[name]["mean"] - found[shared]["mean"] for found in by_seed.values()]
            for name in VARIANTS
            if name.startswith("router")
        }
        for shared in ("shared", "shared x 4")
    }
    return {
        "settings": asdict(settings),
        "seeds": list(seeds),
        "table": table,
        "above": margins,
        "seconds": time.perf_counter() - start,
        "commit": code_commit(),
        "versions": installed_versions(),
    }


def _show(document: dict[str, Any]) -> None:
    heads = ["variant", "numbers", "mean", *NAMES, "least", "most", "routed"]
    _say("".join(f"{head:>14}" for head in heads))
    for name, row in document["table"].items():
        cells = [name, str(row["numbers"][0] + row["router"][0])]
        cells += [f"{statistics.fmean(row[key]):.3f}" for key in ("mean", *NAMES)]
        cells += [f"{min(row['mean']):.3f}", f"{max(row['mean']):.3f}"]
        cells.append(f"{statistics.fmean(row['routed']):.2f}" if "routed" in row else "")
        _say("".join(f"{cell:>14}" for cell in cells))
    for shared, margins in document["above"].items():
        for name, found in margins.items():
            told = ", ".join(f"{100 * margin:+.1f}" for margin in found)
            verdict = "beats" if min(found) > 0 else "does not beat"
            _say(f"{name} {verdict} {shared} on every seed: {told} points")


def _say(text: str) -> None:
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--rank", type=int, default=Settings.rank)
    parser.add_argument("--quick", action="store_true", help="see that it runs")
    parser.add_argument("--output", type=Path)
    given = parser.parse_args(arguments)
    torch.set_num_threads(1)
    settings = replace(QUICK if given.quick else Settings(), rank=given.rank)
    document = report(settings, given.seeds)
    _show(document)
    if given.output is not None:
        given.output.parent.mkdir(parents=True, exist_ok=True)
        given.output.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
