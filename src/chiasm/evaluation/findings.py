"""What an analysis found, in sentences that claim no more than the numbers do."""

from __future__ import annotations

from chiasm.evaluation.bootstrap import Interval
from chiasm.evaluation.gate_analysis import GateAnalysis
from chiasm.evaluation.interventions import CONTROL, SHUFFLED, Setting
from chiasm.evaluation.protocols import HOST


def headline(analysis: GateAnalysis) -> str:
    """Return one sentence: what the extra eye brought, as far as this analysis can tell.

    With a control run the claim is about gain; without one it is about reliance only.
    """
    learned = analysis.settings[0]
    extras = _and(analysis.streams[1:])
    control = analysis.setting(CONTROL)
    reference = control or _host_only(analysis)
    difference = _difference(reference)
    gain = -difference.mean
    size = f"{abs(gain) * 100:.1f} points"
    if control is not None:
        if not difference.excludes_zero:
            return (
                f"No gain from {extras} is shown: {_share(learned)} of answers right, against "
                f"{_share(control)} of a control that cannot see with it."
            )
        if gain > 0:
            return (
                f"Seeing with {extras} brings {size}: {_share(learned)} of answers right, against "
                f"{_share(control)} of a control that cannot see with it."
            )
        return (
            f"Seeing with {extras} costs {size}: {_share(learned)} of answers right, against "
            f"{_share(control)} of a control that cannot see with it."
        )
    if not difference.excludes_zero:
        return (
            f"The model is not shown to rely on {extras}: {_share(learned)} of answers right with "
            f"it, {_share(reference)} with the host alone."
        )
    if gain > 0:
        return (
            f"The model relies on {extras}: {_share(learned)} of answers right with it, "
            f"{_share(reference)} with the host alone."
        )
    return (
        f"The model does better without {extras}: {_share(learned)} of answers right with it, "
        f"{_share(reference)} with the host alone."
    )


def sentences(analysis: GateAnalysis) -> list[str]:
    """Return the other findings, one sentence each."""
    found = []
    learned = analysis.settings[0]
    for setting in (_host_only(analysis), analysis.setting(SHUFFLED), analysis.setting(CONTROL)):
        if setting is not None:
            found.append(_compare(setting))
    found.append(
        f"Always giving the most frequent answer of each kind scores {analysis.majority:.1%}; the "
        f"model scores {_share(learned)} ({_range(learned.accuracy)})."
    )
    if analysis.gate is not None:
        weights, shares = analysis.gate.weights, analysis.gate.contribution_shares
        parts = _and(
            [
                f"{name} gets {weights[name].mean:.0%} of the weight and makes up "
                f"{shares[name].mean:.0%} of what is added"
                for name in analysis.streams
            ]
        )
        found.append(f"On average {parts}. Neither number is importance.")
    return found


def _compare(setting: Setting) -> str:
    difference = _difference(setting)
    points = f"{abs(difference.mean) * 100:.1f} points"
    name = {CONTROL: "The control run", SHUFFLED: "With shuffled features the model"}.get(
        setting.name, f"With {setting.name} the model"
    )
    ends = f"interval {_points(difference.low)} to {_points(difference.high)}"
    if not difference.excludes_zero:
        return (
            f"{name} scores {_share(setting)}: no difference to the model as trained is shown "
            f"({ends} points)."
        )
    direction = "fewer" if difference.mean < 0 else "more"
    return (
        f"{name} scores {_share(setting)}, {points} {direction} than the model as trained ({ends})."
    )


def _host_only(analysis: GateAnalysis) -> Setting:
    found = analysis.setting(f"{HOST} only")
    assert found is not None, "analyse always measures the host alone"
    return found


def _difference(setting: Setting) -> Interval:
    assert setting.difference is not None, "only the learned setting has no difference"
    return setting.difference


def _share(setting: Setting) -> str:
    return f"{setting.accuracy.mean:.1%}"


def _points(value: float) -> str:
    return f"{value * 100:+.1f}".replace("-", "\N{MINUS SIGN}")


def _range(interval: Interval) -> str:
    return f"{interval.low:.1%} to {interval.high:.1%}"


def _and(names: list[str] | tuple[str, ...]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"
