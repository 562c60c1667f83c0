"""Are captions of moving worlds about the video, or about captions?

    OMP_NUM_THREADS=1 taskset -c 0 python -m benchmarks.video_captions tiny-video

A model that has learned actions and answers stays as it is, and a head of captions learns on the
states that it remembers of videos of the world `motion`: they are computed once, so that the head
can go over them many times. Seeds are of the head's weights and of the order of the videos. Beside
it, on the same test videos:

    frequent    the most frequent caption of the training videos
    constant    the training caption that is most like the others (ROUGE-L)
    no video    a head that learned as long on states of other videos: it knows captions alone
    shuffled    the head itself, shown the states of the next test video

Scored as `chiasm evaluate` does it, and by kind of word: the share of the acts, colours and shapes
of a caption and of the truth that they have in common, as often as they stand there (F1).
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from chiasm.data.vocabulary import UNKNOWN, Vocabulary
from chiasm.data.world.motion_words import CAPTION_WORDS
from chiasm.data.world.motion_worlds import MotionDataset
from chiasm.data.world.scene import COLOURS, SHAPES
from chiasm.evaluation.provenance import code_commit, installed_versions
from chiasm.evaluation.suites import SUITES
from chiasm.heads.captions import CaptionHead, CaptionHeadConfig
from chiasm.inference.videos import as_watching
from chiasm.metrics.captions import rouge_l_scores
from chiasm.models.long_video import LongVideo
from chiasm.models.probes import probing
from chiasm.recipes.loading import load_run

WORLD, WORLD_SEED = "motion", 7
SPLITS = {"train": 2000, "validation": 100, "test": 200}
BATCH, LONGEST, LIMIT, AT_ONCE = 16, 64, 48, 4
ACTS = ("moves", "turns", "blinks", "collides", "appears", "hidden")
WORDS = {"acts": ACTS, "colours": tuple(COLOURS), "shapes": tuple(SHAPES)}
NUMBERS = ("bleu_4", "rouge_l", "cider_d", "meteor_approximate", *WORDS)


@dataclass(frozen=True)
class Videos:
    """States float16 (V, N, D) with sizes (V, N), 0 at padding, and what is told of each video."""

    states: Tensor
    sizes: Tensor
    captions: list[str]

    def rows(self, places: Tensor) -> dict[str, Any]:
        """Return what the head is shown of some videos."""
        sizes = self.sizes[places].long()
        return {"states": self.states[places].float(), "mask": sizes > 0, "sizes": sizes}


def watch(model: LongVideo, split: str, count: int, folder: Path | None) -> Videos:
    """Compute the remembered states of the first videos of a split, or read them again."""
    dataset = MotionDataset(world=WORLD, split=split, seed=WORLD_SEED, count=count, task="captions")
    file = None if folder is None else folder / f"{split}-{count}.safetensors"
    told = None if folder is None else folder / f"{split}-{count}.json"
    if file is not None and told is not None and file.exists():
        kept = load_file(file)
        return Videos(kept["states"], kept["sizes"], json.loads(told.read_text("utf-8")))
    states, sizes, captions = [], [], []
    with probing(model):
        for start in range(0, count, AT_ONCE):
            samples = [dataset[index] for index in range(start, min(count, start + AT_ONCE))]
            captions += [sample.truth["captions"][0] for sample in samples]
            batch = model.collator([*samples])
            assert batch.videos is not None
            states_of, _ = model.think(model.reading.encode(batch.videos), batch.videos)
            memory = model.reading.remember(states_of)
            for row, real in enumerate(memory.mask):
                states.append(memory.features[row, real].half())
                sizes.append(memory.sizes[row, real].to(torch.int16))
    pad = torch.nn.utils.rnn.pad_sequence
    found = Videos(pad(states, batch_first=True), pad(sizes, batch_first=True), captions)
    if file is not None and told is not None:
        file.parent.mkdir(parents=True, exist_ok=True)
        save_file({"states": found.states, "sizes": found.sizes}, file)
        told.write_text(json.dumps(captions), encoding="utf-8")
    return found


def learn(
    videos: Videos,
    words: Vocabulary,
    config: CaptionHeadConfig,
    seed: int,
    steps: int,
    rate: float,
    others: bool = False,
) -> CaptionHead:
    """Teach a head; with `others`, on the states of other videos than the captions are of."""
    torch.manual_seed(seed)
    head = config.build(width=videos.states.shape[-1], tokens=len(words)).train()
    written = [torch.tensor(words.encode(caption)) for caption in videos.captions]
    optimiser = torch.optim.AdamW(head.parameters(), rate, betas=(0.9, 0.98), weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, rate, steps, pct_start=0.05)
    order = torch.randperm(len(written))
    place = 0
    for step in range(steps):
        if place + BATCH > len(order):
            order, place = torch.randperm(len(written)), 0
        rows = order[place : place + BATCH]
        place += BATCH
        shown = torch.randint(len(written), (BATCH,)) if others else rows
        logits, targets = head.predict(
            **videos.rows(shown), captions=[written[row] for row in rows.tolist()]
        )
        loss = torch.nn.functional.cross_entropy(logits, targets)
        optimiser.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(head.parameters(), 1.0)
        optimiser.step()
        schedule.step()
        if step % 100 == 99:
            print(f"seed {seed}, step {step + 1}: {float(loss):.3f} nats a word", flush=True)
    return head.eval()


def describe(head: CaptionHead, videos: Videos, words: Vocabulary, turn: int = 0) -> list[str]:
    """Write a caption for each video, from the states of the one `turn` places further."""
    places = torch.arange(len(videos.captions)).roll(-turn)
    texts = []
    for part in places.split(BATCH):
        found = head.write(**videos.rows(part), limit=LIMIT, never=(UNKNOWN,))
        texts += [words.decode(caption.tokens) for caption in found]
    return texts


def score(texts: Sequence[str], videos: Videos) -> dict[str, float]:
    """Return every number of `NUMBERS`."""
    suite = SUITES["captions"]
    said = [suite.prepare(text) for text in texts]
    truth = [[suite.prepare(caption)] for caption in videos.captions]
    found = {name: statistics.fmean(rule(said, truth)) for name, rule in suite.item_metrics.items()}
    found |= {name: rule(said, truth) for name, rule in suite.corpus_metrics.items()}
    for kind, known in WORDS.items():
        shares = []
        for one, (other,) in zip(said, truth, strict=True):
            here, there = (Counter(w for w in t.split() if w in known) for t in (one, other))
            every = sum(here.values()) + sum(there.values())
            shares.append(2 * sum((here & there).values()) / every if every else 1.0)
        found[kind] = statistics.fmean(shares)
    return {name: found[name] for name in NUMBERS}


def constants(videos: Videos, looked_at: int = 60) -> dict[str, str]:
    """Return the most frequent caption, and the one that is most like others."""
    sample = videos.captions[:looked_at]
    likeness = {
        text: statistics.fmean(rouge_l_scores([text] * len(sample), [[one] for one in sample]))
        for text in sample
    }
    return {
        "frequent": Counter(videos.captions).most_common(1)[0][0],
        "constant": max(likeness, key=likeness.__getitem__),
    }


def measure(
    model: LongVideo,
    seeds: Sequence[int],
    steps: int,
    rate: float,
    config: CaptionHeadConfig,
    counts: Mapping[str, int],
    folder: Path | None,
    split: str = "test",
) -> dict[str, Any]:
    """Return the numbers of each row by seed, and some captions."""
    words = Vocabulary(CAPTION_WORDS)
    begun = time.perf_counter()
    train = watch(model, "train", counts["train"], folder)
    shown = watch(model, split, counts[split], folder)
    print(f"states of {len(train.captions)} videos: {time.perf_counter() - begun:.0f} s")
    rows: dict[str, list[dict[str, float]]] = {}
    examples: dict[str, Any] = {"truth": shown.captions[:5]}
    for name, text in constants(train).items():
        rows[name] = [score([text] * len(shown.captions), shown)]
    seconds = []
    for seed in seeds:
        begun = time.perf_counter()
        head = learn(train, words, config, seed, steps, rate)
        seconds.append(time.perf_counter() - begun)
        texts = describe(head, shown, words)
        examples[f"seed {seed}"] = texts[:5]
        rows.setdefault("caption head", []).append(score(texts, shown))
        rows.setdefault("shuffled", []).append(score(describe(head, shown, words, 1), shown))
        print(table({"rows": rows}), flush=True)
    blind = learn(train, words, config, seeds[0], steps, rate, others=True)
    rows["no video"] = [score(describe(blind, shown, words), shown)]
    print(table({"rows": rows}), flush=True)
    return {
        "rows": rows,
        "examples": examples,
        "seconds": seconds,
        "steps": steps,
        "counts": dict(counts),
        "versions": installed_versions(),
        "commit": code_commit(),
    }


def table(found: Mapping[str, Any]) -> str:
    """Return the numbers as a table; of several seeds each, then the mean."""
    lines = ["| | " + " | ".join(NUMBERS) + " |", "|---" * (len(NUMBERS) + 1) + "|"]
    for name, rows in found["rows"].items():
        cells = []
        for number in NUMBERS:
            values = [row[number] for row in rows]
            each = ", ".join(f"{value:.3f}" for value in values)
            cells.append(each if len(values) == 1 else f"{each}; {statistics.fmean(values):.3f}")
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("run", help="a run of the family long_video, or a shipped model")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--rate", type=float, default=3e-3)
    parser.add_argument("--width", type=int, default=64)
    parser.add_argument("--layers", type=int, default=2)
    parser.add_argument("--dropout", type=float, default=0.0)
    parser.add_argument("--split", choices=("validation", "test"), default="test")
    parser.add_argument("--states", type=Path, help="folder that keeps states for the next call")
    parser.add_argument("--output", type=Path, help="file for all numbers, JSON")
    given = parser.parse_args()
    model = as_watching(load_run(given.run))
    config = CaptionHeadConfig(
        width=given.width, layers=given.layers, dropout=given.dropout, longest=LONGEST
    )
    found = measure(
        model, given.seeds, given.steps, given.rate, config, SPLITS, given.states, given.split
    )
    if given.output is not None:
        given.output.parent.mkdir(parents=True, exist_ok=True)
        given.output.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
