"""The house rules that can be checked by reading files.

Each rule takes the root of a project and returns one line a fault, naming place, value and what is
allowed. Taking the root lets the tests show each rule failing on a small tree that breaks it.
"""

import ast
import re
from collections.abc import Callable
from pathlib import Path

from tests.house.source_files import (
    FunctionNode,
    calls,
    dotted,
    functions,
    line_count,
    parse,
    place,
    project_files,
    python_files,
)

FLOORS = {
    "core",
    "layers",
    "data",
    "encoders",
    "fusion",
    "compression",
    "language",
    "heads",
    "objectives",
    "metrics",
    "models",
    "inference",
    "training",
    "evaluation",
    "serving",
    "recipes",
    "cli",
}
DATA_FOLDERS = {"assets"}
TOP_FILES = {"__init__.py", "__main__.py", "py.typed"}

# (file, name of the enclosing function): why asking an object what it has is right there.
PROBING_ALLOWED: dict[tuple[str, str], str] = {}


def package(root: Path) -> Path:
    """The package's folder."""
    return root / "src" / "chiasm"


def top_folders(root: Path) -> list[str]:
    """The package holds the floors and the shipped data, nothing else."""
    faults = []
    for path in sorted(package(root).iterdir()):
        if path.name == "__pycache__":
            continue
        allowed = FLOORS | DATA_FOLDERS if path.is_dir() else TOP_FILES
        if path.name not in allowed:
            faults.append(f"{place(path, root)}: no floor for it; allowed: {sorted(allowed)}")
    return faults


def vague_folders(root: Path) -> list[str]:
    """No folder or module is named after having no name."""
    vague = {"utils", "util", "common", "misc", "helpers", "helper"}
    return [
        f"{place(path, root)}: say what it holds instead of '{name}'"
        for path in project_files(root)
        for name in (*path.relative_to(root).parent.parts, path.stem)
        if name in vague
    ]


def file_lengths(root: Path) -> list[str]:
    """Files of at most 400 lines; families under 200; host adapters at most 120."""
    families, hosts = package(root) / "models", package(root) / "language" / "hosts"
    faults = []
    for path in python_files(package(root)):
        # What every host answers is described once, at the length that takes; adapters stay short.
        adapter = path.parent == hosts and path.name != "protocol.py"
        limit = 199 if path.parent == families else 120 if adapter else 400
        if (lines := line_count(path)) > limit:
            faults.append(f"{place(path, root)}: {lines} lines, at most {limit}; split it")
    return faults


def function_lengths(root: Path) -> list[str]:
    """Functions of at most 80 lines."""
    faults = []
    for path in python_files(package(root)):
        for node in functions(parse(path)):
            lines = (node.end_lineno or node.lineno) - node.lineno + 1
            if lines > 80:
                faults.append(f"{place(path, root, node)}: {node.name} has {lines}, at most 80")
    return faults


def families_compose(root: Path) -> list[str]:
    """A family has no parameters and no tensor arithmetic of its own."""
    containers = {"Module", "ModuleDict", "ModuleList"}
    arithmetic = {"matmul", "mm", "bmm", "einsum", "softmax", "sigmoid", "exp", "log", "sqrt"}
    faults = []
    for path in python_files(package(root) / "models"):
        for node in ast.walk(parse(path)):
            fault = ""
            if isinstance(node, ast.BinOp) and isinstance(node.op, ast.MatMult):
                fault = "a matrix product"
            elif isinstance(node, ast.Import | ast.ImportFrom):
                modules = [alias.name for alias in node.names]
                origin = node.module or "" if isinstance(node, ast.ImportFrom) else ""
                full = [f"{origin}.{name}".strip(".") for name in modules]
                if any(name.startswith("torch.nn.functional") for name in full):
                    fault = "torch.nn.functional"
                elif any(
                    name.startswith("torch.nn.") and name.split(".")[-1] not in containers
                    for name in full
                ):
                    fault = f"an import of {', '.join(full)}"
            elif isinstance(node, ast.Attribute):
                name = dotted(node).removeprefix("torch.")
                if re.match(r"nn\.[A-Za-z]", name) and name.split(".")[1] not in containers:
                    fault = name
                elif dotted(node).startswith("torch.") and name in arithmetic:
                    fault = dotted(node)
            if fault:
                faults.append(f"{place(path, root, node)}: {fault}; put it in a part below")
    return faults


def no_printing(root: Path) -> list[str]:
    """The library does not print; the command line writes through rich and typer."""
    return [
        f"{place(path, root, node)}: print(); log it, or return it to the command line"
        for path in python_files(package(root))
        for node, name in calls(parse(path))
        if name == "print"
    ]


def no_probing(root: Path) -> list[str]:
    """No hasattr, and no getattr with a default: a protocol says what an object has."""
    faults = []
    for path in python_files(package(root)):
        tree = parse(path)
        enclosing: dict[ast.AST, str] = {}
        # Inner functions come later in the walk and overwrite the outer name.
        for function in functions(tree):
            enclosing.update(dict.fromkeys(ast.walk(function), function.name))
        for node, name in calls(tree):
            if name == "hasattr" or (name == "getattr" and len(node.args) == 3):
                where = (path.relative_to(root).as_posix(), enclosing.get(node, ""))
                if where not in PROBING_ALLOWED:
                    faults.append(f"{place(path, root, node)}: {name}; name it in a protocol")
    return faults


def _undocumented(path: Path, root: Path, body: list[ast.stmt]) -> list[str]:
    faults = []
    for node in body:
        if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
            if ast.get_docstring(node) is None:
                faults.append(f"{place(path, root, node)}: {node.name} has no docstring")
            faults += _undocumented(path, root, node.body)
        elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            faults += _bare_function(path, root, node)
    return faults


def _bare_function(path: Path, root: Path, node: FunctionNode) -> list[str]:
    faults = []
    decorators = {dotted(decorator).split(".")[-1] for decorator in node.decorator_list}
    # An overload or a setter is documented where its function or getter is.
    if (
        not node.name.startswith("_")
        and ast.get_docstring(node) is None
        and not decorators & {"overload", "setter"}
    ):
        faults.append(f"{place(path, root, node)}: {node.name} has no docstring")
    spec = node.args
    named = [*spec.posonlyargs, *spec.args, *spec.kwonlyargs]
    named += [argument for argument in (spec.vararg, spec.kwarg) if argument is not None]
    bare = [
        argument.arg
        for argument in named
        if argument.annotation is None and argument.arg not in ("self", "cls")
    ]
    if bare:
        faults.append(f"{place(path, root, node)}: {node.name} has bare {', '.join(bare)}")
    if node.returns is None:
        faults.append(f"{place(path, root, node)}: {node.name} does not say what it returns")
    return faults


def documented_and_typed(root: Path) -> list[str]:
    """Public names have docstrings, all functions annotations, modules say what they are."""
    faults = []
    for path in python_files(package(root)):
        tree = parse(path)
        if ast.get_docstring(tree) is None:
            faults.append(f"{place(path, root)}: the module has no docstring")
        faults += _undocumented(path, root, tree.body)
    return faults


def tests_assert(root: Path) -> list[str]:
    """Every test claims something that can be false."""
    claims = ("assert", "check", "raises", "warns", "fail", "exactly", "gradcheck")
    faults = []
    for path in python_files(root / "tests"):
        if not path.name.startswith("test_"):
            continue
        tests = [node for node in functions(parse(path)) if node.name.startswith("test_")]
        if not tests:
            faults.append(f"{place(path, root)}: a test file without a test")
        for node in tests:
            asserts = any(isinstance(inner, ast.Assert) for inner in ast.walk(node))
            names = [name.split(".")[-1] for _, name in calls(node)]
            if not asserts and not any(word in name for word in claims for name in names):
                faults.append(f"{place(path, root, node)}: {node.name} asserts nothing")
    return faults


def skips_say_why(root: Path) -> list[str]:
    """A test that needs something that may be missing says what, in words for people."""
    return [
        f"{place(path, root, node)}: importorskip without reason=; name the extra that is missing"
        for path in python_files(root / "tests")
        for node, name in calls(parse(path))
        if name.endswith("importorskip") and "reason" not in {word.arg for word in node.keywords}
    ]


def no_pickles(root: Path) -> list[str]:
    """Nothing is written as a pickle, and a foreign one is read with weights_only=True."""
    writers = {
        "torch.save",
        "pickle.dump",
        "pickle.dumps",
        "pickle.Pickler",
        "joblib.dump",
        "torch.jit.save",
    }
    readers = {"pickle.load", "pickle.loads", "joblib.load"}
    faults = []
    for path in python_files(package(root)):
        for node, name in calls(parse(path)):
            keywords = {
                keyword.arg: keyword.value.value
                for keyword in node.keywords
                if isinstance(keyword.value, ast.Constant)
            }
            if name in writers:
                faults.append(f"{place(path, root, node)}: {name}; write safetensors")
            elif name in readers:
                faults.append(f"{place(path, root, node)}: {name}; use a restricted reader")
            elif name == "torch.load" and keywords.get("weights_only") is not True:
                faults.append(f"{place(path, root, node)}: torch.load without weights_only=True")
            elif keywords.get("allow_pickle") is True:
                faults.append(f"{place(path, root, node)}: allow_pickle=True; use plain arrays")
    return faults


def no_remote_code(root: Path) -> list[str]:
    """Code that comes with a checkpoint is never run."""
    pattern = re.compile(r"trust_remote" + r"_code[\"']?\s*[:=]\s*[Tt]rue")
    return [
        f"{place(path, root)}:{number}: remote code is never run; load a class of the library"
        for path, number, line in _text_lines(root)
        if pattern.search(line)
    ]


def no_attention_output(root: Path) -> list[str]:
    """Attention is captured by the tap alone: asking the library for all of it changes its path."""
    pattern = re.compile(r"output_attentions[\"']?\s*[:=]\s*[Tt]rue")
    return [
        f"{place(path, root)}:{number}: use chiasm.language.tap"
        for path, number, line in _text_lines(package(root))
        if pattern.search(line)
    ]


def no_machine_paths(root: Path) -> list[str]:
    """No path of one machine and no host of a package index stands in the project."""
    # Built from pieces, so that this file passes its own rule.
    folders = "|".join(("wo" + "rk", "ro" + "ot", "ho" + "me", "Us" + "ers"))
    hosts = "|".join(
        re.escape(front + back)
        for front, back in (
            ("python", "hosted"),
            ("py", "pi.org"),
            ("download.py", "torch.org"),
            ("ana", "conda.org"),
            ("npm", "js.org"),
            ("deb", "ian.org"),
        )
    )
    pattern = re.compile(rf"((?<![\w.\-)}}])/({folders})/|{hosts})")
    return [
        f"{place(path, root)}:{number}: {found.group(0)}; use a path relative to the project"
        for path, number, line in _text_lines(root)
        if (found := pattern.search(line))
    ]


def _text_lines(root: Path) -> list[tuple[Path, int, str]]:
    """All lines of the text files of a tree; files that are not UTF-8 have none."""
    lines = []
    for path in project_files(root):
        if path.suffix in {".safetensors", ".png", ".jpg", ".parquet", ".mp4", ".npz"}:
            continue
        try:
            text = path.read_text(encoding="utf-8")
        except UnicodeDecodeError:
            continue
        lines += [(path, number, line) for number, line in enumerate(text.splitlines(), 1)]
    return lines


def asset_size(root: Path) -> list[str]:
    """What is shipped in the package stays under 25 MB together."""
    folder = package(root) / "assets"
    size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    return [] if size < 25_000_000 else [f"{place(folder, root)}: {size} bytes, under 25000000"]


RULES: dict[str, Callable[[Path], list[str]]] = {
    "top_folders": top_folders,
    "vague_folders": vague_folders,
    "file_lengths": file_lengths,
    "function_lengths": function_lengths,
    "families_compose": families_compose,
    "no_printing": no_printing,
    "no_probing": no_probing,
    "documented_and_typed": documented_and_typed,
    "tests_assert": tests_assert,
    "skips_say_why": skips_say_why,
    "no_pickles": no_pickles,
    "no_remote_code": no_remote_code,
    "no_attention_output": no_attention_output,
    "no_machine_paths": no_machine_paths,
    "asset_size": asset_size,
}
