"""Give a host a second eye, train the fusion for a minute, and ask which eye it used.

python examples/dual_encoder.py
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

from chiasm.data.world.worlds import WorldDataset
from chiasm.inference.session import Session
from chiasm.recipes.loading import load_recipe, load_run
from chiasm.recipes.running import prepare, run


def main() -> None:
    """Train a short run of `tiny-dual`, load it again, and look through both eyes."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=60)
    steps = parser.parse_args().steps
    with tempfile.TemporaryDirectory() as folder:
        output = Path(folder) / "dual"
        recipe = load_recipe(
            "tiny-dual", [f"training.stages.0.steps={steps}", "data.validation=[]"]
        )
        run(prepare(recipe, output, Path.cwd()), output)

        session = Session(load_run(output))
        sample = WorldDataset(world="single_grain", split="test", count=1)[0]
        session.set(image=sample.images[0])
        question, truth = sample.turns[0].text, sample.turns[1].text
        answer = session.ask(question)
        sys.stdout.write(f"{question} {answer.text} (truth: {truth})\n")
        sys.stdout.write(f"shares of the eyes: {answer.gate}\n")


if __name__ == "__main__":
    main()
