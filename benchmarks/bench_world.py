"""How fast the world is painted, beside what one would write first: PIL drawing at four times the
size, halved twice. Both paint the same scenes, one core, processor time, in one run.

    python benchmarks/bench_world.py
"""

import math
import time
from collections.abc import Callable

import numpy as np
from PIL import Image, ImageDraw

from chiasm.data.world.render import render
from chiasm.data.world.sampling import sample_scene, stream
from chiasm.data.world.scene import COLOURS, Scene, Thing
from chiasm.data.world.textures import modulation
from chiasm.data.world.worlds import WORLDS, draw

SCENES = 300
ROUNDS = 5
SCALE = 4


def naive(scene: Scene) -> np.ndarray:
    """Draw outlines with PIL at four times the size; textures, light and noise with numpy."""
    width, height = scene.width * SCALE, scene.height * SCALE
    down, across = np.mgrid[0:height, 0:width] / SCALE
    canvas = np.empty((height, width, 3))
    canvas[:] = scene.background.colours[0]
    for blob in scene.background.blobs:
        spot = np.exp(-(((across - blob.x) ** 2 + (down - blob.y) ** 2) / blob.radius**2))
        canvas += spot[..., None] * np.array(blob.change)
    if scene.background.kind == "gradient":
        direction = scene.background.direction
        ramp = across * math.cos(direction) + down * math.sin(direction)
        ramp = (ramp - ramp.min()) / (ramp.max() - ramp.min())
        canvas += ramp[..., None] * np.subtract(*scene.background.colours[::-1])
    for thing in scene.things:
        outline = Image.new("L", (width, height))
        ImageDraw.Draw(outline).polygon(_corners(thing), fill=255)
        inside = np.asarray(outline)[..., None] > 0
        columns, rows = np.arange(width) // SCALE, np.arange(height) // SCALE
        change = modulation(thing.texture, thing.texture_period, columns, rows)
        canvas = np.where(inside, np.array(COLOURS[thing.colour]) * (1 + change[..., None]), canvas)
    ramp = 2 * across / scene.width - 1
    canvas *= (scene.lighting.gain * (1 + scene.lighting.slope * ramp))[..., None]
    small = Image.fromarray(canvas.clip(0, 255).astype(np.uint8))
    small = small.resize((scene.width, scene.height), Image.Resampling.BOX)
    noise = np.random.default_rng(scene.noise_seed).normal(0, scene.noise, (*small.size, 3))
    return (np.asarray(small) + noise).clip(0, 255).astype(np.uint8)


def _corners(thing: Thing) -> list[tuple[float, float]]:
    """Forty points of a circle: what stands in for every outline, none of which has fewer edges."""
    steps = [2 * math.pi * step / 40 for step in range(40)]
    radius = thing.size / 2
    return [
        (SCALE * (thing.x + radius * math.cos(a)), SCALE * (thing.y + radius * math.sin(a)))
        for a in steps
    ]


def rate(paint: Callable[[int], object]) -> float:
    """Return the best of several rounds, in calls a second of processor time."""
    best = 0.0
    for _ in range(ROUNDS):
        start = time.process_time()
        for index in range(SCENES):
            paint(index)
        best = max(best, SCENES / (time.process_time() - start))
    return best


def main() -> None:
    config = WORLDS["shapes"].parts[0]
    scenes = [sample_scene(stream(0, "train", i), config, "train") for i in range(SCENES)]
    ours = rate(lambda index: render(scenes[index]))
    theirs = rate(lambda index: naive(scenes[index]))
    whole = rate(lambda index: draw(WORLDS["shapes"], "train", 0, index, 3))
    print(f"{SCENES} scenes of {config.height} x {config.width} pixels, 1 to 3 things, one core")
    print(f"render with visible and whole masks   {ours:8.0f} images/s")
    print(f"PIL at {SCALE} times the size, no masks      {theirs:8.0f} images/s")
    print(f"ratio                                 {ours / theirs:8.1f}")
    print(f"sampled, rendered and asked           {whole:8.0f} images/s")


if __name__ == "__main__":
    main()
