"""Run the Python blocks of a page as the cells of one notebook, and write what they display as an HTML page.

    python -m tools.notebook docs/notebook.md OUTPUT.html

The cells share their names and run in the working directory. As in Jupyter, the value of a cell's last expression is
displayed, by its `_repr_html_` if it has one. A cell that the page marks with `<!-- needs pandas -->` runs only where
that package is installed. The first error ends the run.
"""

from __future__ import annotations

import ast
import contextlib
import html
import io
import sys
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tools.pages import blocks_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tools.pages import Block

_NEEDS = "needs "


@dataclass(frozen=True, slots=True)
class Cell:
    """A cell that was run.

    Attributes:
        block: The block of the page.
        printed: What it printed.
        value: The value of its last expression; None if it ends with a statement.
    """

    block: Block
    printed: str
    value: object

    def to_html(self) -> str:
        """Return code and output as HTML."""
        parts = [f"<pre class='code'>{html.escape(self.block.body)}</pre>"]
        if self.printed:
            parts.append(f"<pre>{html.escape(self.printed)}</pre>")
        if self.value is not None:
            shown = getattr(self.value, "_repr_html_", None)
            parts.append(shown() if callable(shown) else f"<pre>{html.escape(repr(self.value))}</pre>")
        return "\n".join(parts)


def run_cells(page: Path) -> list[Cell]:
    """Run the cells of a page in the working directory; an exception of a cell names its place in a note."""
    names: dict[str, Any] = {"__name__": "__main__"}
    cells = []
    for block in blocks_of(page):
        needed = [mark.removeprefix(_NEEDS) for mark in block.marks if mark.startswith(_NEEDS)]
        if block.language != "python" or not all(map(_is_installed, needed)):
            continue
        try:
            cells.append(_run(block, names))
        except BaseException as err:
            err.add_note(f"in the cell at {block.where}")
            raise
    return cells


def _is_installed(package: str) -> bool:
    """Return whether a package can be imported; None in `sys.modules` hides one."""
    return (package not in sys.modules or sys.modules[package] is not None) and find_spec(package) is not None


def _run(block: Block, names: dict[str, Any]) -> Cell:
    """Run a cell with the names of the earlier ones."""
    tree = ast.parse(block.body, filename=block.where)
    last = tree.body.pop() if tree.body and isinstance(tree.body[-1], ast.Expr) else None
    printed, value = io.StringIO(), None
    with contextlib.redirect_stdout(printed):
        exec(compile(tree, block.where, "exec"), names)  # noqa: S102 -- the project's own page
        if isinstance(last, ast.Expr):
            value = eval(compile(ast.Expression(last.value), block.where, "eval"), names)  # noqa: S307 -- the same
    return Cell(block, printed.getvalue(), value)


def main(words: Sequence[str]) -> int:
    """Run a page, and write what its cells display; return the exit code."""
    if len(words) != 2:
        print(__doc__)
        return 2
    cells = run_cells(Path(words[0]).resolve())
    style = "body { font-family: sans-serif; max-width: 70rem; margin: auto } .code { background: #eee; padding: 1ex }"
    body = "\n".join(cell.to_html() for cell in cells)
    page = f"<!DOCTYPE html><meta charset='utf-8'><style>{style}</style>{body}"
    Path(words[1]).write_text(page, "utf-8")
    print(f"{len(cells)} cells ran; what they display is in {words[1]}")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
