"""Questions about a motion: each kind is one function that asks, or finds nothing to ask.

Answers are balanced as far as the motion allows: what is random is first the kind, then the answer
where the kind can choose it, then the thing.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from chiasm.core.config import lookup
from chiasm.data.world.kinds import NUMBERS
from chiasm.data.world.motion import ACTIONS, Act, Motion
from chiasm.data.world.scene import COLOURS, SHAPES
from chiasm.data.world.view import Question
from chiasm.data.world.words import article

SINGLE_DOER = tuple(kind for kind in ACTIONS if kind != "collide")
"""Actions of one thing, whose doer can be asked for."""


@dataclass(frozen=True)
class MotionQuestion(Question):
    """A question about a motion.

    Attributes:
        seen: The frames [start, end) that hold the answer: the first look that is needed, to the
            end of the last one. Whoever has forgotten them can only guess.
    """

    seen: tuple[int, int] = (0, 0)


@dataclass(frozen=True)
class MotionView:
    """What a question kind looks at.

    Attributes:
        motion: What happens.
        rng: Chance.
        focus: Indices of the things that questions must be about; all when empty.
        about: Actions whose doer is asked for; all when empty.
    """

    motion: Motion
    rng: np.random.Generator
    focus: tuple[int, ...] = ()
    about: tuple[str, ...] = ()

    def choose(self, options: Sequence[str]) -> str:
        """Return one of the options."""
        return options[int(self.rng.integers(len(options)))]

    def shuffled(self, options: Sequence[str]) -> list[str]:
        """Return options in random order."""
        return [options[int(place)] for place in self.rng.permutation(len(options))]

    def coin(self) -> bool:
        """Return yes or no with equal chance."""
        return bool(self.rng.integers(2))

    def things(self) -> list[int]:
        """Return the things to ask about in random order."""
        indices = self.focus or range(len(self.motion.movers))
        return [indices[int(place)] for place in self.rng.permutation(len(indices))]

    def acts(self, kind: str) -> list[Act]:
        """Return the acts of a kind, by start."""
        return [act for act in self.motion.acts if act.kind == kind]

    def within_focus(self, *acts: Act) -> bool:
        """Whether one of some acts is done by a thing that questions must be about."""
        return not self.focus or any(act.thing in self.focus for act in acts)

    def name(self, thing: int) -> str:
        """Return words with article that fit a thing and no other."""
        mover = self.motion.movers[thing]
        options = (f"{mover.colour} {mover.shape}", mover.shape, f"{mover.colour} thing")
        return f"the {self.choose(options)}"


def _who(view: MotionView, attribute: str) -> MotionQuestion | None:
    for kind in view.shuffled(view.about or SINGLE_DOER):
        acts, did = view.acts(kind), ACTIONS[kind]
        if not acts:
            continue
        when = "" if len(acts) == 1 else view.choose((" first", " last"))
        act = acts[-1] if when == " last" else acts[0]
        if not view.within_focus(act):
            continue
        words = {"colour": "color", "shape": "shape"}[attribute]
        text = view.choose((f"What {words} {did}{when}?", f"What {words} is what {did}{when}?"))
        mover = view.motion.movers[act.thing]
        answer = {"colour": mover.colour, "shape": mover.shape}[attribute]
        return MotionQuestion(
            attribute, text, answer, (answer,), (act.thing,), (act.start, act.end)
        )
    return None


def _colour(view: MotionView) -> MotionQuestion | None:
    return _who(view, "colour")


def _shape(view: MotionView) -> MotionQuestion | None:
    return _who(view, "shape")


def _count(view: MotionView) -> MotionQuestion | None:
    kinds = sorted({act.kind for act in view.motion.acts})
    # "Zero" is one of the answers, as likely as each of the others at first sight.
    unused = [kind for kind in ACTIONS if kind not in kinds]
    kind = view.choose(unused) if unused and not view.rng.integers(4) else ""
    kind = kind or (view.choose(kinds) if kinds else "")
    acts = view.acts(kind)
    if not kind or len(acts) >= len(NUMBERS) or (view.focus and not view.within_focus(*acts)):
        return None
    did = _happened(kind)
    answer = NUMBERS[len(acts)]
    things = tuple(sorted({act.thing for act in acts}))
    text = f"How many times {did[0].lower()}{did[1:]}?"
    seen = (acts[0].start, acts[-1].end) if acts else (0, view.motion.frames)
    return MotionQuestion("count", text, answer, (answer, f"{len(acts)}"), things, seen)


def _whether(view: MotionView) -> MotionQuestion | None:
    truth = view.coin()
    for thing in view.things():
        done = {act.kind for act in view.motion.acts if act.thing == thing}
        kinds = [kind for kind in SINGLE_DOER if (kind in done) == truth]
        if not kinds:
            continue
        kind = view.choose(kinds)
        ask = {"hide": "Was {} hidden?"}.get(kind, f"Did {{}} {kind}?")
        acts = [act for act in view.acts(kind) if act.thing == thing]
        seen = (acts[0].start, acts[0].end) if acts else (0, view.motion.frames)
        answer = "yes" if truth else "no"
        text = ask.format(view.name(thing))
        return MotionQuestion("whether", text, answer, (answer,), (thing,), seen)
    return None


def _order(view: MotionView) -> MotionQuestion | None:
    kinds = view.shuffled(sorted({act.kind for act in view.motion.acts}))
    for first in kinds:
        for second in kinds:
            ours, theirs = view.acts(first)[0], view.acts(second)[0]
            if first == second or ours.start == theirs.start:
                continue
            if not view.within_focus(ours, theirs):
                continue
            if not view.coin():
                first, second, ours, theirs = second, first, theirs, ours
            answer = "yes" if ours.start < theirs.start else "no"
            text = f"{_happened(first)} before something {ACTIONS[second]}?"
            seen = (min(ours.start, theirs.start), max(ours.start, theirs.start))
            things = (ours.thing, theirs.thing)
            return MotionQuestion("order", text, answer, (answer,), things, (seen[0], seen[1] + 1))
    return None


def _act(view: MotionView) -> MotionQuestion | None:
    for kind in view.shuffled(tuple(ACTIONS)):
        for thing in view.things():
            acts = [act for act in view.motion.acts if thing in act.things]
            ends = {"first": acts[0], "last": acts[-1]} if acts else {}
            for when in view.shuffled(tuple(ends)):
                act = ends[when]
                # Who was run into did nothing.
                if act.kind != kind or act.thing != thing:
                    continue
                text = f"What did {view.name(thing)} do {when}?"
                seen = (act.start, act.end)
                return MotionQuestion("act", text, kind, (kind,), (thing,), seen)
    return None


def _happened(kind: str) -> str:
    """Return how a question about an action begins."""
    return "Was something hidden" if kind == "hide" else f"Did something {kind}"


MOTION_KINDS: dict[str, Callable[[MotionView], MotionQuestion | None]] = {
    "colour": _colour,
    "shape": _shape,
    "count": _count,
    "whether": _whether,
    "order": _order,
    "act": _act,
}
"""Question kind -> the function that asks it."""

MOTION_ANSWERS = (*COLOURS, *SHAPES, *ACTIONS, "yes", "no", *NUMBERS)
"""Everything that is ever an answer to learn: a closed set."""


def ask_motion(
    motion: Motion,
    rng: np.random.Generator,
    kinds: Sequence[str] = (),
    count: int = 1,
    focus: Sequence[int] = (),
    about: Sequence[str] = (),
) -> list[MotionQuestion]:
    """Ask up to `count` different questions about a motion.

    Args:
        motion: What happens.
        rng: Chooses kind, answer, thing and wording.
        kinds: Names in `MOTION_KINDS`; all when empty.
        count: How many; fewer come back where the motion gives no more.
        focus: Indices of the things that every question must be about; any when empty.
        about: Actions of one thing whose doer may be asked for; any when empty.

    Raises:
        UnknownNameError: A kind is not known.
    """
    askers = [lookup(MOTION_KINDS, kind, "question kind") for kind in kinds or MOTION_KINDS]
    view = MotionView(motion, rng, tuple(focus), tuple(about))
    asked: dict[tuple[str, str], MotionQuestion] = {}
    for _ in range(4 * count):
        if len(asked) == count:
            break
        for place in rng.permutation(len(askers)):
            question = askers[int(place)](view)
            if question is not None and (question.kind, question.text) not in asked:
                asked[question.kind, question.text] = question
                break
    return list(asked.values())


def tell(motion: Motion) -> str:
    """Return the motion in one sentence, act after act, each thing by colour and shape."""
    words = {"hide": "is hidden"}
    named: set[int] = set()
    said = []
    for act in motion.acts:
        names = []
        for thing in act.things:
            mover = motion.movers[thing]
            text = f"{mover.colour} {mover.shape}"
            names.append(f"the {text}" if thing in named else f"{article(text)} {text}")
            named.add(thing)
        does = words.get(act.kind, f"{act.kind}s")
        said.append(f"{names[0]} {does}" + (f" with {names[1]}" if len(names) > 1 else ""))
    return ", then ".join(said) or "nothing happens"
