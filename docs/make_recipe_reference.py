"""Writes `docs/reference/recipe.md` from the configuration classes, so that it cannot fall behind.

    python docs/make_recipe_reference.py

The meaning of a field is read where the code has it: from the text below the field, or from the
section `Attributes:` of its class.
"""

from __future__ import annotations

import ast
import inspect
import re
import textwrap
from pathlib import Path

from pydantic import BaseModel
from pydantic_core import PydanticUndefined

from chiasm.core.config import Config
from chiasm.data.formats.grounding import GroundingOptions
from chiasm.data.mask_prompts import PromptDrawing
from chiasm.data.video_transforms import VideoAugmentConfig
from chiasm.encoders import ENCODERS
from chiasm.encoders.codebook import CodebookConfig
from chiasm.encoders.codebook_use import RevivalConfig
from chiasm.encoders.frames import FrameEncoderConfig
from chiasm.encoders.video_features import VideoFeaturesConfig
from chiasm.fusion import FUSIONS
from chiasm.heads.action_decoding import ActionDecoderConfig
from chiasm.heads.actions import ActionHeadConfig
from chiasm.heads.answers import AnswerHeadConfig
from chiasm.heads.captions import CaptionHeadConfig
from chiasm.heads.mask_refiner import MaskRefinerConfig
from chiasm.heads.sam import SamConfig
from chiasm.language.adapters import LoraAdapterConfig
from chiasm.language.scratch import ScratchHostConfig
from chiasm.language.video_projector import VideoProjectorConfig
from chiasm.layers.domains import DomainsConfig
from chiasm.layers.experts import ExpertsConfig
from chiasm.layers.low_rank import LowRankConfig
from chiasm.layers.reader import ReaderConfig
from chiasm.layers.routing import RouterConfig
from chiasm.models.dual_encoder_modes import FREEZE_FLAGS, TRAINING_MODES
from chiasm.models.segmenter import SegmenterConfig
from chiasm.models.tokenizer import TokenizerConfig
from chiasm.objectives.gate import DiversityConfig
from chiasm.recipes import data_choice, schema, training_choice
from chiasm.recipes.video_choice import VideoChoice
from chiasm.recipes.video_language_choice import VideoLanguageChoice
from chiasm.training.settings import StageSettings, TrainingSettings

PAGE = Path(__file__).parent / "reference" / "recipe.md"

SECTIONS: tuple[tuple[str, type[Config]], ...] = (
    ("The recipe", schema.Recipe),
    ("host", schema.HostChoice),
    ("host.lora", LoraAdapterConfig),
    ("host.scratch", ScratchHostConfig),
    ("grounding", schema.GroundingChoice),
    ("grounding.refiner", MaskRefinerConfig),
    ("segmenter", SegmenterConfig),
    ("segmenter.prompts", PromptDrawing),
    ("grounding.refiner.sam, segmenter.sam", SamConfig),
    ("tokenizer", TokenizerConfig),
    ("tokenizer.codebook", CodebookConfig),
    ("tokenizer.revival", RevivalConfig),
    ("video", VideoChoice),
    ("video.frames", FrameEncoderConfig),
    ("video.features", VideoFeaturesConfig),
    ("video.reader", ReaderConfig),
    ("video.augment", VideoAugmentConfig),
    ("video.answer_head", AnswerHeadConfig),
    ("video.action_head", ActionHeadConfig),
    ("video.decoder", ActionDecoderConfig),
    ("video.caption_head", CaptionHeadConfig),
    ("video.by_domain", DomainsConfig),
    ("video.by_domain.adapters", LowRankConfig),
    ("video.by_domain.experts", ExpertsConfig),
    ("video.by_domain.router", RouterConfig),
    ("video_language", VideoLanguageChoice),
    ("video_language.projector", VideoProjectorConfig),
    ("data", schema.DataChoice),
    ("data.train, data.validation: a source", data_choice.Source),
    ("data.train.grounding, data.validation.grounding", GroundingOptions),
    ("objective", schema.ObjectiveChoice),
    ("objective.diversity_reading", DiversityConfig),
    ("training", schema.TrainingChoice),
    ("training.stages: a stage", training_choice.Stage),
)

FALLBACK: dict[type[Config], type[Config]] = {
    schema.TrainingChoice: TrainingSettings,
    training_choice.Stage: StageSettings,
}
"""Where the meaning of a field stands if not in its own class."""

INTRODUCTION = """# The recipe

*Written by `docs/make_recipe_reference.py` from the code; a test holds both together.*

A recipe is a YAML file with the keys below. An unknown key is a fault, told with the nearest known
name; all faults come at once. `chiasm train RECIPE KEY.PATH=VALUE` replaces a value, `--dry-run`
prints the recipe as it was resolved. How to use it is in [train.md](../how-to/train.md).
"""


def page() -> str:
    """Return the reference as Markdown."""
    lines = [INTRODUCTION]
    for title, kind in SECTIONS:
        lines += [f"## {title}", "", first_paragraph(kind), "", *table(kind), ""]
    lines += ["## fusion", "", "`kind` chooses the fusion; the other keys are its own.", ""]
    for name, kind in FUSIONS.items():
        lines += [f"### kind: {name}", "", first_paragraph(kind), "", *table(kind), ""]
    lines += [
        "## encoders",
        "",
        "By name; `kind` chooses the family, the other keys are its own.",
        "",
    ]
    families = [name for name in ENCODERS if name not in ("convnext", "timm")]
    lines += [f"### kind: {', '.join(families)}", "", *table(ENCODERS[families[0]]), ""]
    for name in ("convnext", "timm"):
        kind = ENCODERS[name]
        lines += [f"### kind: {name}", "", first_paragraph(kind), "", *table(kind), ""]
    lines += ["## Names", "", "Training modes and the groups that train:", ""]
    lines += [f"- `{mode}`: {', '.join(groups)}" for mode, groups in TRAINING_MODES.items()]
    lines += ["", "Freeze flags and the group each freezes:", ""]
    lines += [f"- `{flag}`: {group}" for flag, group in FREEZE_FLAGS.items()]
    return "\n".join(lines) + "\n"


def table(kind: type[BaseModel]) -> list[str]:
    """Return the fields of a class as the lines of a table."""
    meanings = {**meanings_of(FALLBACK.get(kind)), **meanings_of(kind)}
    lines = ["| key | type | default | meaning |", "|---|---|---|---|"]
    for name, field in kind.model_fields.items():
        default = field.get_default(call_default_factory=True)
        shown = "needed" if default is PydanticUndefined else f"`{written(default)}`"
        meaning = meanings.get(name, "")
        lines.append(f"| `{name}` | {type_of(field.annotation)} | {shown} | {escaped(meaning)} |")
    return lines


def meanings_of(kind: type[BaseModel] | None) -> dict[str, str]:
    """Return what the fields of a class mean, those of its bases included."""
    found: dict[str, str] = {}
    for base in reversed(kind.__mro__ if kind else ()):
        if issubclass(base, BaseModel) and base.__module__.startswith("chiasm."):
            found |= {**from_docstring(base), **from_texts_below(base)}
    return found


def from_texts_below(kind: type[BaseModel]) -> dict[str, str]:
    """Return the text that stands below each field of a class."""
    (body,) = ast.parse(textwrap.dedent(inspect.getsource(kind))).body
    assert isinstance(body, ast.ClassDef)
    found = {}
    for field, below in zip(body.body, body.body[1:], strict=False):
        if isinstance(field, ast.AnnAssign) and isinstance(below, ast.Expr):
            text = ast.literal_eval(below.value)
            assert isinstance(field.target, ast.Name)
            found[field.target.id] = " ".join(str(text).split())
    return found


def from_docstring(kind: type[BaseModel]) -> dict[str, str]:
    """Return the entries of a class's section `Attributes:`."""
    _, _, section = (inspect.getdoc(kind) or "").partition("Attributes:\n")
    entries = re.findall(r"^    (\w+): (.*?)(?=^    \w+: |\Z)", section, re.DOTALL | re.MULTILINE)
    return {name: " ".join(text.split()) for name, text in entries}


def first_paragraph(kind: type[BaseModel]) -> str:
    """Return the first paragraph of a class's docstring."""
    return " ".join((inspect.getdoc(kind) or "").partition("\n\n")[0].split())


def type_of(annotation: object) -> str:
    """Return a type as a reader of YAML would call it."""
    text = annotation.__name__ if isinstance(annotation, type) else str(annotation)
    if "SkipValidation" in text:
        return "mappings with `kind`, by name" if text.startswith("dict") else "mapping with `kind`"
    if "Discriminator" in text:
        return "mapping with `family`, or sizes of the usual host"
    text = re.sub(r"typing\.|chiasm\.[\w.]+\.", "", text).replace("NoneType", "None")
    text = re.sub(
        r"Literal\[([^\]]*)\]", lambda found: "one of " + found[1].replace("'", "`"), text
    )
    text = re.sub(r"tuple\[(.*), \.\.\.\]", r"list of \1", text)
    return escaped(text)


def written(value: object) -> str:
    """Return a default as YAML would show it."""
    if isinstance(value, BaseModel | dict):
        return "{}"
    if isinstance(value, tuple):
        return "[" + ", ".join(map(str, value)) + "]"
    if isinstance(value, bool):
        return str(value).lower()
    return "null" if value is None else str(value) or "''"


def escaped(text: str) -> str:
    """Return text that may stand in a cell of a table."""
    return text.replace("|", "\\|")


if __name__ == "__main__":
    PAGE.parent.mkdir(exist_ok=True)
    PAGE.write_text(page(), encoding="utf-8")
