"""What each attention type costs beside naive attention and PyTorch's own (SDPA), in one run.

    OMP_NUM_THREADS=1 taskset -c 0 python -m benchmarks.attention --output runs/attention.json
    ... --lengths 1024 4096 --types strided performer --levels core --passes forward --no-memory

Width 768, 12 heads, one row. *Core* is the mixing of queries, keys and values (for Mamba: its
scan) alone; *module* has the projections too. Strided: stride 4. Local and global: a window of 128
on either side and 16 global tokens. Memory: 64 slots. FAVOR+: 128 features. Mamba: expand 2,
state 16, causal; all others see the whole row. Linear: its elu + 1 mixer. Hierarchical: 3 levels,
window 64, full top. Cores of performer-pytorch (as many features) and mambapy (its parallel scan)
stand beside ours where these packages are installed.

Time: every round runs every candidate once, in turn, and ratios are taken within a round; rounds go
on until `--seconds` are spent, at least one after a warm-up, at most `--rounds`. With one thread it
is processor time, so that a shared machine does not count; with more it is wall time.
Memory: peak resident memory above the loaded inputs and weights, each candidate in a forked process
of its own and on its second run there.
Floor: operations of the core, and what that bounds its speed beside SDPA to where both ran at the
same rate; of memory, the output and, with a backward pass, the gradients of three inputs.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from benchmarks.attention_candidates import (
    NAMES,
    OTHERS,
    QUICK,
    Sizes,
    Way,
    memory_floor,
    operations,
    ways,
)
from chiasm.core.errors import InputError
from chiasm.evaluation.peak_memory import peak_memory
from chiasm.evaluation.provenance import code_commit, installed_versions

LEVELS, PASSES = ("core", "module"), ("forward", "both")


@dataclass(frozen=True)
class Target:
    """A bound that a ratio is held to.

    Attributes:
        name: The type.
        level: core or module.
        passes: forward or both.
        length: Tokens.
        kind: `faster`: time of the baseline over that of the type, at least `bound`; `smaller`:
            memory of the type over that of the baseline, at most `bound`.
        baseline: sdpa, naive, or a package.
        bound: The bound.
    """

    name: str
    level: str
    passes: str
    length: int
    kind: str
    baseline: str
    bound: float


def _targets() -> tuple[Target, ...]:
    faster = [
        *[("strided", "core", n, 3.4) for n in (1024, 2048, 4096, 8192, 16384)],
        ("strided", "module", 4096, 2.2),
        ("local_global", "core", 4096, 4.5),
        ("local_global", "core", 8192, 8.5),
        ("cross_memory", "core", 4096, 15.0),
        ("performer", "core", 2048, 2.5),
        ("performer", "core", 4096, 4.8),
        ("performer", "core", 8192, 10.0),
        ("linear", "core", 4096, 7.0),
        ("mamba", "module", 8192, 1.1),
    ]
    found = [Target(n, level, "forward", c, "faster", "sdpa", b) for n, level, c, b in faster]
    found += [
        Target("mamba", "module", "forward", 8192, "faster", "naive", 4.0),
        Target("performer", "core", "forward", 4096, "faster", "performer-pytorch", 1.8),
        Target("performer", "core", "forward", 8192, "faster", "performer-pytorch", 1.8),
        Target("mamba", "core", "both", 2048, "faster", "mambapy", 2.5),
    ]
    smaller = [
        *[("performer", "forward", n, "sdpa", 1.5) for n in (4096, 8192, 16384)],
        *[("performer", "both", n, "sdpa", 1.05) for n in (4096, 8192, 16384)],
        *[("strided", "both", n, "sdpa", 1.1) for n in (2048, 4096, 8192, 16384)],
        *[(name, "both", 2048, "naive", 0.08) for name in ("performer", "strided")],
        *[(name, "both", 4096, "naive", 0.04) for name in ("performer", "strided")],
        ("local_global", "both", 4096, "naive", 0.11),
        ("local_global", "both", 4096, "sdpa", 3.5),
        ("mamba", "both", 2048, "mambapy", 0.15),
    ]
    found += [Target(n, "core", p, c, "smaller", base, b) for n, p, c, base, b in smaller]
    return tuple(found)


TARGETS = _targets()


def seconds(made: Mapping[str, Way], rounds: int, budget: float, threads: int) -> dict[str, list]:
    """Run every candidate once a round, and return the seconds of each round."""
    clock = time.process_time if threads == 1 else time.perf_counter
    found: dict[str, list[float]] = {name: [] for name in made}
    spent = 0.0
    for turn in range(rounds + 1):
        for name, way in made.items():
            gc.collect()
            start = clock()
            way()
            took = clock() - start
            if turn:
                found[name].append(took)
            spent += took
        if turn and spent * (turn + 2) / (turn + 1) > budget:
            break
    return found


def memory_in_child(module: str, arguments: Sequence[str]) -> dict[str, float]:
    """Measure memory in a fresh process of one thread, which alone can be forked safely.

    Its heap gives all tensors pages of their own from the start, and takes none back for others:
    holes that building the candidates left would add up to a tenth, and not the same each time.
    """
    command = [sys.executable, "-m", module, *arguments, "--memory-only"]
    heap = {"MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "0"}
    environment = {**os.environ, "OMP_NUM_THREADS": "1", **heap}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"measuring memory failed:\n{done.stderr}")
    return json.loads(done.stdout)


def measure_memory(made: Mapping[str, Way]) -> dict[str, float | None]:
    """Return peak MiB of each candidate; None where it did not finish."""
    found: dict[str, float | None] = {}
    # The first backward pass imports a great deal; once here, or once in every fork.
    one = torch.ones((), requires_grad=True)
    torch.autograd.grad(one * 1, one, torch.ones(()))
    for name, way in made.items():
        try:
            found[name] = peak_memory(way)
        except InputError:
            found[name] = None
    return found


def ratio(values: Mapping[str, list], top: str, bottom: str) -> dict[str, float] | None:
    """Return median, least and largest of the ratios of rounds."""
    if not (values.get(top) and values.get(bottom)):
        return None
    found = [a / b for a, b in zip(values[top], values[bottom], strict=True)]
    return {"median": statistics.median(found), "least": min(found), "largest": max(found)}


def judge(cases: Sequence[Mapping[str, Any]], targets: Sequence[Target]) -> list[dict[str, Any]]:
    """Hold figures to targets; those of cases that were not measured are left out."""
    found = []
    for target in targets:
        for case in cases:
            if any(case[key] != asdict(target)[key] for key in ("level", "passes", "length")):
                continue
            if target.kind == "faster":
                told = ratio(case["seconds"], target.baseline, target.name)
                value = None if told is None else told["median"]
                met = value is not None and value >= target.bound
            else:
                own, other = (
                    case["extra_mib"].get(name) for name in (target.name, target.baseline)
                )
                value = own / other if own is not None and other else None
                met = value is not None and value <= target.bound
            if value is not None:
                found.append({**asdict(target), "value": value, "met": met})
    return found


def told_targets(case: Mapping[str, Any], name: str) -> str:
    """Return what a candidate was held to, and how it came out."""
    return "; ".join(
        f"{'>=' if t['kind'] == 'faster' else '<='} {t['bound']:g} x {t['baseline']}"
        f"{'' if t['kind'] == 'faster' else ' memory'}: {t['value']:.3g} "
        f"{'met' if t['met'] else 'MISSED'}"
        for t in case["targets"]
        if t["name"] == name
    )


def table(case: Mapping[str, Any]) -> str:
    """Return one case as text."""
    lines = [
        f"{case['length']} tokens, {case['level']}, "
        f"{'forward' if case['passes'] == 'forward' else 'forward and backward'}"
        f" ({case['threads']} thread(s), {case['clock']} time; memory at least "
        f"{case['floor_mib']:.0f} MiB)",
        f"{'':18}{'ms':>9}{'x SDPA':>9}{'least..most':>15}{'limit':>8}{'x naive':>9}"
        f"{'MiB':>9}{'GFLOP':>8}  targets",
    ]
    for name, times in case["seconds"].items():
        sdpa, slow = ratio(case["seconds"], "sdpa", name), ratio(case["seconds"], "naive", name)
        mib = case["extra_mib"].get(name)
        limit = case["operations"]["sdpa"] / case["operations"][name]
        spread = "" if sdpa is None else f"{sdpa['least']:.2f}..{sdpa['largest']:.2f}"
        lines.append(
            f"{name:18}{1e3 * statistics.median(times):9.1f}"
            f"{'' if sdpa is None else format(sdpa['median'], '.2f'):>9}{spread:>15}"
            f"{format(limit, '.1f') if case['level'] == 'core' else '':>8}"
            f"{'' if slow is None else format(slow['median'], '.2f'):>9}"
            f"{'' if mib is None else format(mib, '.1f'):>9}"
            f"{case['operations'][name] / 1e9:8.2f}  {told_targets(case, name)}"
        )
    return "\n".join(lines)


def measure(options: argparse.Namespace, level: str, passes: str, count: int) -> dict[str, Any]:
    """Measure one length, level and pass, memory first."""
    sizes = QUICK if options.quick else Sizes()
    greedy = () if count <= options.greedy_up_to else ("naive", "mambapy")
    names = [n for n in options.types if n not in greedy]
    if level != "core":
        names = [n for n in names if n not in OTHERS]
    extra: dict[str, float] = {}
    if options.memory:
        given = ["--lengths", str(count), "--levels", level, "--passes", passes, "--types", *names]
        given += ["--quick"] if options.quick else []
        extra = memory_in_child("benchmarks.attention", given)
    torch.set_num_threads(options.threads)
    made = ways(level, passes, sizes, count, names)
    case: dict[str, Any] = {
        "length": count,
        "level": level,
        "passes": passes,
        "threads": options.threads,
        "clock": "processor" if options.threads == 1 else "wall",
        "seconds": seconds(made, options.rounds, options.seconds, options.threads),
        "extra_mib": extra,
        "operations": {name: operations(name, sizes, count) for name in {*names, "sdpa"}},
        "floor_mib": memory_floor(passes, sizes, count),
    }
    case["targets"] = [] if options.quick else judge([case], TARGETS)
    return case


def parsed(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    lengths = [1024, 2048, 4096, 8192, 16384]
    parser.add_argument("--lengths", type=int, nargs="+", default=lengths)
    parser.add_argument("--types", nargs="+", choices=(*NAMES, *OTHERS), default=[*NAMES, *OTHERS])
    parser.add_argument("--levels", nargs="+", choices=LEVELS, default=list(LEVELS))
    parser.add_argument("--passes", nargs="+", choices=PASSES, default=list(PASSES))
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=120, help="for each table, about")
    parser.add_argument(
        "--greedy-up-to", type=int, default=8192, help="naive and mambapy (26 and 20 GB at 16384)"
    )
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--memory", action=argparse.BooleanOptionalAction, default=True)
    parser.add_argument("--quick", action="store_true", help="tiny sizes, one round")
    parser.add_argument("--output", type=Path, help="where to write the figures as JSON")
    parser.add_argument("--memory-only", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.quick:
        options.rounds = 1
    return options


def main(arguments: Sequence[str] | None = None) -> None:
    options = parsed(arguments)
    if options.memory_only:
        torch.set_num_threads(1)
        level, passes, count = options.levels[0], options.passes[0], options.lengths[0]
        sizes = QUICK if options.quick else Sizes()
        print(json.dumps(measure_memory(ways(level, passes, sizes, count, options.types))))
        return
    cases: list[dict[str, Any]] = []
    for level in options.levels:
        for passes in options.passes:
            for count in options.lengths:
                cases.append(measure(options, level, passes, count))
                print(table(cases[-1]), end="\n\n", flush=True)
                if options.output is not None:
                    options.output.parent.mkdir(parents=True, exist_ok=True)
                    about = {"versions": installed_versions(), "commit": code_commit()}
                    told = {"sizes": asdict(QUICK if options.quick else Sizes()), "cases": cases}
                    options.output.write_text(json.dumps({**told, **about}, indent=2))


if __name__ == "__main__":
    main()
