"""Writes merge ledgers as JSON, and side by side as one HTML page without outside resources."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from chiasm.core.errors import InputError
from chiasm.evaluation.html import page_facts
from chiasm.evaluation.merge_ledger import TOTAL, MergeLedger
from chiasm.evaluation.saving import page_path, save_report, write_page


def save_ledgers(ledgers: Mapping[str, MergeLedger], path: Path | str) -> tuple[Path, Path]:
    """Write ledgers by name, the first of which the others are compared with, and a page.

    Args:
        ledgers: By name of what was measured ("unmerged", "merged to 50 %").
        path: The JSON file; the page lies beside it.

    Returns:
        The paths of the JSON file and of the page.

    Raises:
        InputError: There is no ledger.
    """
    target = Path(path)
    document = {name: ledger.to_json() for name, ledger in ledgers.items()}
    page = render_ledgers(ledgers)
    save_report(target, document, ())
    write_page(page_path(target), page)
    return target, page_path(target)


def render_ledgers(ledgers: Mapping[str, MergeLedger]) -> str:
    """Return the page as text; all texts are escaped.

    Raises:
        InputError: There is no ledger.
    """
    if not ledgers:
        raise InputError("no ledger to write; keep at least one")
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent / "templates"),
        autoescape=True,
        undefined=StrictUndefined,
    )
    (first, base), *others = ledgers.items()
    return environment.get_template("merge_ledger.html.j2").render(
        headline=_headline(first, base, dict(others)),
        ledgers=ledgers,
        base=base,
        widest=max(row.median for one in ledgers.values() for row in one.rows[:-1]),
        facts={name: page_facts(one.context) for name, one in ledgers.items()},
    )


def _headline(first: str, base: MergeLedger, others: Mapping[str, MergeLedger]) -> str:
    if not others:
        return f"{first}: {base.row(TOTAL).median:.0f} ms"
    told = [
        f"{name}: {base.row(TOTAL).median / one.row(TOTAL).median:.2f} times as fast as {first}"
        for name, one in others.items()
    ]
    return "; ".join(told)
