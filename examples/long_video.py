"""Teach a small model to watch, show it a video, and ask what happens in it.

python examples/long_video.py
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from fractions import Fraction
from pathlib import Path

from chiasm.data.video_writing import write_video
from chiasm.data.world.motion_render import MotionFrames
from chiasm.data.world.motion_worlds import MOTION_WORLDS, draw_motion
from chiasm.inference.session import Session
from chiasm.inference.timeline import draw_timeline
from chiasm.recipes.loading import load_recipe, load_run
from chiasm.recipes.running import prepare, run

SURE = 0.3
"""Score from which a segment is told."""


def main() -> None:
    """Train a short run of `tiny-video`, load it again, and let it watch a video file."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=200)
    steps = parser.parse_args().steps
    with tempfile.TemporaryDirectory() as folder:
        output, file = Path(folder) / "video", Path(folder) / "moving.mp4"
        shorter = [
            # One stage, at one ratio: the recipe's own course takes minutes.
            f"training.stages=[{{name: videos, steps: {steps}, warmup: {steps // 5}}}]",
            "video.curriculum=null",
            "video.compression.schedule=null",
            "video.compression.budget={ratio: 0.25}",
            "data.validation=[]",
        ]
        run(prepare(load_recipe("tiny-video", shorter), output, Path.cwd()), output)

        world = MOTION_WORLDS["motion"]
        item = draw_motion(world, "test", seed=0, index=0)
        rate = Fraction(world.rate).limit_denominator(1001)
        write_video(file, MotionFrames(item.motion), rate)

        session = Session(load_run(output))
        session.set(video=file)
        question = item.questions[0]
        answer = session.ask(question.text)
        sys.stdout.write(f"{question.text} {answer.text} (truth: {question.answer})\n")
        found = [segment for segment in session.watch() if segment.score >= SURE]
        for segment in found:
            sys.stdout.write(f"{segment.start:.1f} to {segment.end:.1f} s: {segment.label}\n")
        truth = ", ".join(f"{s.start:.1f} to {s.end:.1f} s {s.label}" for s in item.motion.segments)
        sys.stdout.write(f"truth: {truth}\n")
        seen = session.video()
        sys.stdout.write(f"{seen.tokens} tokens, of which {seen.kept} were read\n")
        draw_timeline(file, seen, found).save("timeline.png")


if __name__ == "__main__":
    main()
