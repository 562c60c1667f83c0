"""`chiasm predict`: ask a trained model."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from chiasm.cli.loading import Device, load_on
from chiasm.cli.output import Json, emit
from chiasm.cli.predict_usage import SURE, check_options, parse_boxes

if TYPE_CHECKING:
    from chiasm.cli.predict_pairs import PairWants
    from chiasm.inference.benchmark import Benchmark
    from chiasm.inference.responding import Generation
    from chiasm.recipes.build import Family

DEFAULT_QUESTION = "What do you see?"
BATCH = 8


Image = Annotated[Path | None, typer.Option(help="Image to ask about.")]
Ask = Annotated[str | None, typer.Option("--ask", "--question", help="The question.")]
Input = Annotated[
    Path | None,
    typer.Option("--input", help="File of questions, phrases or pairs: JSONL, JSON or Parquet."),
]
Output = Annotated[
    Path | None,
    typer.Option(help="Folder for predictions.jsonl, maps, masks and pictures; made if needed."),
]
Compare = Annotated[
    bool,
    typer.Option(
        "--compare-encoders",
        "--compare_encoders",
        help="Answer with the learned gate, with the host alone, with each encoder alone.",
    ),
]
Time = Annotated[bool, typer.Option("--benchmark", help="Time each stage of one answer.")]
Phrase = Annotated[
    list[str] | None, typer.Option(help="Phrase to point at; may be given several times.")
]
MaskChoice = Annotated[
    str | None,
    typer.Option(
        "--mask",
        help="coarse or refined masks; the model's best if not given. With --reconstruction: a "
        "picture in which the hidden pixels of the image are white.",
    ),
]
Ground = Annotated[bool, typer.Option("--ground", help="Also point at the phrases of the answer.")]
Phrases = Annotated[
    str | None,
    typer.Option("--extractor", help="What finds phrases for --ground: rules (default) or spacy."),
]
ChainOfThought = Annotated[
    str | None,
    typer.Option(
        "--chain-of-thought",
        help="Look closer before answering: at the object that the model names (object), at what "
        "the question says (question), or not (none).",
    ),
]
Reconstruction = Annotated[
    Path | None, typer.Option(help="The partly hidden thing of the image, as it was rebuilt.")
]
Complete = Annotated[bool, typer.Option("--complete", help="Also draw the picture complete.")]
SelfCheck = Annotated[
    bool,
    typer.Option(
        "--self-check",
        help="Also let the model judge whether it sees clearly on the image alone, and look at the "
        "reconstruction where it does not.",
    ),
]
ImageBox = Annotated[
    str | None,
    typer.Option("--image-box", help="Box of the whole thing in the image: left,top,right,bottom."),
]
ReconstructionBox = Annotated[
    str | None, typer.Option("--reconstruction-box", help="Its box in the reconstruction.")
]
DrawingTemperature = Annotated[
    float, typer.Option("--drawing-temperature", min=0.0, help="Temperature of --complete.")
]
TopK = Annotated[
    int, typer.Option("--top-k", min=0, help="Of --complete: likeliest codes kept, 0 for all.")
]
Guidance = Annotated[
    float, typer.Option(min=1.0, help="Classifier-free guidance of --complete; 1 is none.")
]
Video = Annotated[
    Path | None,
    typer.Option(help="Video to watch: a file, a folder of frames, or a file of features."),
]
Domain = Annotated[
    str | None,
    typer.Option(help="Of --video: its domain, for a run with parts by domain and no router."),
]
Score = Annotated[
    float,
    typer.Option(
        min=0.0, max=1.0, help="Of --video: score from which a segment is shown and drawn."
    ),
]
MaxNewTokens = Annotated[
    int, typer.Option("--max-new-tokens", min=1, help="Longest answer in tokens.")
]
Temperature = Annotated[
    float, typer.Option(min=0.0, help="0 takes the likeliest token, above 0 samples.")
]
TopP = Annotated[float, typer.Option("--top-p", help="With sampling: share of probability kept.")]
Seed = Annotated[int, typer.Option(min=0, max=2**63 - 1, help="Seed of the sampling.")]
MediaRoot = Annotated[
    Path | None, typer.Option(help="Folder that relative paths of --input start from.")
]
Format = Annotated[
    str, typer.Option("--format", help="Form of --input: auto, messages, llava, vqa, ...")
]
BatchSize = Annotated[int, typer.Option(min=1, help="Questions of --input a batch.")]
SkipFaulty = Annotated[
    bool, typer.Option("--skip-faulty", help="Answer the sound records, count the faulty ones.")
]
Repeats = Annotated[int, typer.Option(min=1, help="Runs that --benchmark counts.")]


def predict(
    context: typer.Context,
    run: Annotated[str, typer.Argument(help="A run directory, or the name of a shipped model.")],
    image: Image = None,
    ask: Ask = None,
    file: Input = None,
    output: Output = None,
    compare_encoders: Compare = False,
    benchmark: Time = False,
    phrase: Phrase = None,
    mask: MaskChoice = None,
    ground: Ground = False,
    extractor: Phrases = None,
    chain_of_thought: ChainOfThought = None,
    reconstruction: Reconstruction = None,
    image_box: ImageBox = None,
    reconstruction_box: ReconstructionBox = None,
    complete: Complete = False,
    self_check: SelfCheck = False,
    drawing_temperature: DrawingTemperature = 1.0,
    top_k: TopK = 0,
    guidance: Guidance = 1.0,
    video: Video = None,
    domain: Domain = None,
    score: Score = SURE,
    max_new_tokens: MaxNewTokens = 128,
    temperature: Temperature = 0.0,
    top_p: TopP = 1.0,
    seed: Seed = 0,
    media_root: MediaRoot = None,
    format: Format = "auto",
    batch_size: BatchSize = BATCH,
    skip_faulty: SkipFaulty = False,
    repeats: Repeats = 5,
    device: Device = "auto",
    json: Json = False,
) -> None:
    """Ask a trained model about an image or a video, or about a file of them.

    Examples:
        chiasm predict tiny-dual --image scene.png --ask "How many circles are there?"
        chiasm predict runs/dual --image scene.png --ask "What shape?" --compare-encoders
        chiasm predict runs/dual --input questions.jsonl --output answers
        chiasm predict runs/dual --image scene.png --benchmark
        chiasm predict tiny-grounding --image scene.png --phrase "the red circle" --output found
        chiasm predict runs/pointer --image scene.png --ask "What is there?" --ground --output said
        chiasm predict tiny-pair --image a.png --reconstruction b.png --complete --output seen
        chiasm predict tiny-video --video walk.mp4 --ask "What moved first?" --output watched
    """
    check_options(context.params)
    boxes = parse_boxes(image_box, reconstruction_box)
    from chiasm.cli.predict_one import Wants, predict_one
    from chiasm.cli.predict_pairs import PairWants, predict_pair
    from chiasm.cli.predict_video import predict_video
    from chiasm.inference.responding import Generation, seeded

    model = load_on(run, device)
    generation = Generation(max_new_tokens, temperature, top_p, seed=seed if temperature else None)
    pairs = PairWants(complete, self_check, drawing_temperature, top_k, guidance, seed)
    with seeded(seed):
        if benchmark:
            _benchmark(model, image, video, ask or DEFAULT_QUESTION, repeats, json)
        elif file is not None:
            form = {"format": format, "media_root": media_root, "skip_faulty": skip_faulty}
            _predict_file(model, file, output, mask, generation, pairs, batch_size, json, form)
        elif compare_encoders:
            _compare(model, image, ask or DEFAULT_QUESTION, max_new_tokens, json)
        elif video is not None:
            how: dict[str, Any] = {"domain": domain, "sure": score, "as_json": json}
            predict_video(run, model, video, ask, generation, output, **how)
        elif reconstruction is not None:
            given = {"image": image, "reconstruction": reconstruction, **boxes, "mask": mask}
            given["question"] = ask or (DEFAULT_QUESTION if complete else None)
            predict_pair(run, model, given, pairs, generation, output, as_json=json)
        else:
            wants = Wants(ask, tuple(phrase or ()), mask, ground, extractor, chain_of_thought)
            predict_one(run, model, image, wants, generation, output, as_json=json)


def _predict_file(
    model: "Family",
    file: Path,
    output: Path | None,
    mask: str | None,
    generation: "Generation",
    pairs: "PairWants",
    batch_size: int,
    as_json: bool,
    form: dict[str, Any],
) -> None:
    """Choose what a file is of: what the model reads, else phrases or questions."""
    from chiasm.cli.predict_file import predict_file
    from chiasm.cli.predict_pairs import predict_pair_file
    from chiasm.cli.predict_phrases import holds_phrases, predict_phrases
    from chiasm.cli.predict_video import predict_video_file
    from chiasm.inference.responding import Generation
    from chiasm.inference.senses import check_sense
    from chiasm.models.video_language import VideoLanguage

    if pairs.complete or pairs.self_check:
        check_sense(model, "reconstruction")
    form = {**form, "as_json": as_json}
    if "video" in model.senses:
        if mask is not None or batch_size != BATCH:
            raise typer.BadParameter(
                "a model of videos watches them one by one and points at nothing; leave out "
                "--batch-size and --mask",
                param_hint="--input",
            )
        sampled = generation != Generation(generation.max_new_tokens)
        if sampled and not isinstance(model, VideoLanguage):
            raise typer.BadParameter(
                "a model of videos without a host samples nothing; leave out --temperature and "
                "--top-p",
                param_hint="--input",
            )
        predict_video_file(model, file, output, generation, **form)
    elif "reconstruction" in model.senses:
        if mask is not None:
            raise typer.BadParameter("the records of a file bring their masks", param_hint="--mask")
        predict_pair_file(model, file, output, pairs, generation, batch_size=batch_size, **form)
    elif holds_phrases(file, form["format"]):
        predict_phrases(model, file, output, mask, **form)
    else:
        predict_file(model, file, output, generation, batch_size=batch_size, **form)


def _compare(
    model: "Family", image: Path | None, question: str, max_new_tokens: int, as_json: bool
) -> None:
    from chiasm.inference.session import Session

    session = Session(model)
    session.set(image=image)
    answers = session.compare(question, max_new_tokens=max_new_tokens)
    document = {
        "question": question,
        "settings": {name: answer.document(maps=False) for name, answer in answers.items()},
    }

    def render(target: Console) -> None:
        table = Table("gate", "answer", title=escape(question))
        streams = list(next(iter(answers.values())).gate or {})
        for stream in streams:
            table.add_column(stream, justify="right")
        for name, answer in answers.items():
            setting = "learned" if name == "learned" else f"{name} alone"
            shares = [f"{(answer.gate or {})[stream]:.3f}" for stream in streams]
            table.add_row(setting, escape(answer.text), *shares)
        target.print(table)

    emit(document, as_json=as_json, render=render)


def _benchmark(
    model: "Family",
    image: Path | None,
    video: Path | None,
    question: str,
    repeats: int,
    as_json: bool,
) -> None:
    """Time the stages of watching a video, or of an answer about an image."""
    if video is not None:
        from chiasm.cli.predict_video import time_video

        time_video(model, video, repeats, as_json=as_json)
        return
    from chiasm.inference.benchmark import benchmark

    result = benchmark(model, image, question, repeats=repeats)
    emit(result.document(), as_json=as_json, render=lambda target: _show_times(result, target))


def _show_times(result: "Benchmark", target: Console) -> None:
    height, width = result.image
    table = Table(title=f"one answer on {result.device}, {result.dtype}")
    for heading in ("stage", "median ms", "least", "most", "share"):
        table.add_column(heading, justify="left" if heading == "stage" else "right")
    total = result.stages["total"].median
    for stage, timing in result.stages.items():
        table.add_row(
            stage,
            f"{timing.median:.2f}",
            f"{timing.least:.2f}",
            f"{timing.most:.2f}",
            f"{timing.median / total:.0%}",
            end_section=stage == "decode",
        )
    target.print(table)
    target.print(
        f"decoding: {result.tokens_per_second:.1f} tokens/s over {result.new_tokens} tokens"
    )
    if result.peak_memory is not None:
        target.print(f"peak memory: {result.peak_memory / 2**20:.0f} MiB {result.memory_of}")
    target.print(
        f"image {width} x {height} pixels as {result.visual_tokens} tokens, prompt "
        f"{result.prompt_tokens} tokens; {result.repeats} runs after {result.warm_up} for warm-up, "
        f"{result.threads} CPU thread(s)",
        style="dim",
    )
