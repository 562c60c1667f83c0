"""Reading a project's files for the house rules."""

import ast
from collections.abc import Iterator
from pathlib import Path

FunctionNode = ast.FunctionDef | ast.AsyncFunctionDef

# Folders that tools and runs write; git ignores them too.
NOT_OURS = {
    ".git",
    ".venv",
    "__pycache__",
    ".pytest_cache",
    ".mypy_cache",
    ".ruff_cache",
    ".hypothesis",
    ".import_linter_cache",
    "build",
    "dist",
    "runs",
    "outputs",
}


def project_files(root: Path) -> Iterator[Path]:
    """Every file that belongs to the project, in a fixed order."""
    for path in sorted(root.iterdir()):
        if path.name in NOT_OURS or path.name.endswith(".egg-info"):
            continue
        if path.is_dir() and not path.is_symlink():
            yield from project_files(path)
        elif path.is_file():
            yield path


def python_files(folder: Path) -> list[Path]:
    """Python files under a folder; none when there is no such folder."""
    if not folder.is_dir():
        return []
    return [path for path in project_files(folder) if path.suffix == ".py"]


def parse(path: Path) -> ast.Module:
    """The syntax tree of a file."""
    return ast.parse(path.read_text(encoding="utf-8"), filename=str(path))


def line_count(path: Path) -> int:
    """Lines of a text file."""
    return len(path.read_text(encoding="utf-8").splitlines())


def place(path: Path, root: Path, node: ast.AST | None = None) -> str:
    """File and line, relative to the project."""
    line = "" if node is None else f":{node.lineno}"  # type: ignore[attr-defined]
    return f"{path.relative_to(root).as_posix()}{line}"


def dotted(node: ast.AST) -> str:
    """`torch.nn.Linear` for the expression that says so; empty for anything else."""
    if isinstance(node, ast.Name):
        return node.id
    if isinstance(node, ast.Attribute):
        front = dotted(node.value)
        return f"{front}.{node.attr}" if front else ""
    return ""


def calls(tree: ast.AST) -> Iterator[tuple[ast.Call, str]]:
    """Every call and the dotted name it calls."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            yield node, dotted(node.func)


def functions(tree: ast.AST) -> Iterator[FunctionNode]:
    """Every function and method, nested ones included."""
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield node
