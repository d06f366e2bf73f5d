"""Tables and boxes that fit the terminal they are printed on.

A table is laid out when the width is known: with headers on one line; else with headers folded at their blanks; else
without its optional columns; and where even that is too wide, as one paragraph per row. No cell is ever cut off.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final, Literal

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from rich.console import Console, ConsoleOptions, RenderableType
    from rich.table import Table as RichTable
    from rich.text import Text

# Widths in columns of the terminal.
GAP: Final = 2
MIN_FOLDED: Final = 12
MAX_BAR: Final = 48
MIN_BAR: Final = 8
INDENT: Final = 2
# Lines that the widest cell of a folding column may take before the table is too narrow for it.
MAX_LINES: Final = 4

#: Words that have a style wherever they are a whole cell.
STYLES: Final = {
    "GO": "bold green",
    "NO-GO": "bold red",
    "passed": "green",
    "failed": "bold red",
    "FAILED": "bold red",
    "not applicable": "dim",
    "yes": "green",
    "NO": "bold red",
    "*": "bold",
}


@dataclass(frozen=True, slots=True)
class Column:
    """One column of a table.

    Attributes:
        header: Above it.
        kind: See `right`, `folding`, `optional` and `bar`; all but "folding" stay on one line.
        cells: From top to bottom.
    """

    header: str
    kind: Literal["left", "right", "folding", "optional", "bar"] = "left"
    cells: tuple[Text, ...] = ()

    @property
    def cell_width(self) -> int:
        """The width of the widest cell, in columns of the terminal."""
        return max((cell.cell_len for cell in self.cells), default=0)

    def min_width(self, *, folded_header: bool) -> int:
        """Return the least width, in columns of the terminal, in which the column can be shown."""
        width = self.cell_width
        if self.kind == "folding":
            width = min(width, max(MIN_FOLDED, -(-width // MAX_LINES)))
        if self.kind == "bar":
            width = MIN_BAR
        return max(width, *map(len, self.header_text(folded=folded_header).split("\n")))

    def header_text(self, *, folded: bool) -> str:
        """Return the header; where it is folded and wider than the cells, with one word per line."""
        return self.header.replace(" ", "\n") if folded and len(self.header) > self.cell_width else self.header


def right(*headers: str) -> tuple[Column, ...]:
    """Return right-aligned columns, without cells yet."""
    return tuple(Column(header, "right") for header in headers)


def folding(*headers: str) -> tuple[Column, ...]:
    """Return columns whose cells may take several lines, and that are left out where every cell is empty."""
    return tuple(Column(header, "folding") for header in headers)


def optional(*headers: str) -> tuple[Column, ...]:
    """Return columns that are left out where there is no room for them."""
    return tuple(Column(header, "optional") for header in headers)


def bar(header: str) -> Column:
    """Return a column of bars, whose cells are shares from 0 to 1."""
    return Column(header, "bar")


def table(title: str | None, *columns: str | Column, rows: Iterable[Sequence[object]]) -> Table:
    """Return a table of plain cells.

    Args:
        title: Shown above; None for none.
        columns: From left to right; a text is the header of a left-aligned column.
        rows: Cells; None is shown as a dash, and a known word such as GO gets its style.
    """
    cells = [tuple(map(_cell, row)) for row in rows]
    by_column = zip(*cells, strict=True) if cells else [()] * len(columns)
    empty = [Column(column) if isinstance(column, str) else column for column in columns]
    return Table(title, tuple(replace(c, cells=tuple(cells)) for c, cells in zip(empty, by_column, strict=True)))


def _cell(value: object) -> Text:
    from rich.text import Text

    text = "-" if value is None else str(value)
    return Text(text, style=STYLES.get(text, ""), overflow="fold")


@dataclass(frozen=True, slots=True)
class Table:
    """Rows under headers; a Rich renderable.

    Attributes:
        title: Shown above, in bold; None for none.
        columns: From left to right.
    """

    title: str | None
    columns: tuple[Column, ...]

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> Iterator[RenderableType]:
        """Yield the first layout that is no wider than the console."""
        del console
        from rich.text import Text

        shown = [c for c in self.columns if c.kind != "folding" or any(cell.plain for cell in c.cells)]
        needed = [c for c in shown if c.kind != "optional"]
        if self.title:
            yield Text(self.title, style="bold")
        for columns, folded in ((shown, False), (shown, True), (needed, False), (needed, True)):
            widths = [c.min_width(folded_header=folded) for c in columns]
            if sum(widths) + GAP * (len(widths) - 1) <= options.max_width:
                yield _as_rich_table(columns, folded_headers=folded)
                return
        yield from _as_paragraphs(shown, options.max_width)


def _as_rich_table(columns: Sequence[Column], *, folded_headers: bool) -> RichTable:
    from rich.box import SIMPLE_HEAD
    from rich.progress_bar import ProgressBar
    from rich.table import Table as RichTable

    rich_table = RichTable(box=SIMPLE_HEAD, show_edge=False, pad_edge=False, padding=(0, GAP - 1, 0, 0))
    for column in columns:
        rich_table.add_column(
            column.header_text(folded=folded_headers),
            justify="right" if column.kind == "right" else "left",
            no_wrap=column.kind not in {"folding", "bar"},
            max_width=MAX_BAR if column.kind == "bar" else None,
            overflow="fold",
        )
    for row in zip(*(c.cells for c in columns), strict=True):
        cells = zip(columns, row, strict=True)
        rich_table.add_row(*(ProgressBar(1, float(cell.plain)) if c.kind == "bar" else cell for c, cell in cells))
    return rich_table


def _as_paragraphs(columns: Sequence[Column], width: int) -> Iterator[RenderableType]:
    """Yield one paragraph per row: the first cell, then each further cell that is not empty, with its header."""
    from rich.padding import Padding
    from rich.text import Text

    head, *rest = columns
    for row, first in enumerate(head.cells):
        # A number alone says nothing.
        name = f"{head.header} " if head.kind == "right" else ""
        yield Text.assemble((name, "dim"), (first.plain, "bold"), overflow="fold")
        lines: list[Text] = []
        for column in rest:
            cell = column.cells[row]
            if column.kind == "bar" or cell.plain in {"", "-"}:
                continue
            item = Text.assemble((f"{column.header} ".lstrip(), "dim"), cell, overflow="fold")
            if lines and INDENT + lines[-1].cell_len + GAP + item.cell_len <= width:
                lines[-1].append(" " * GAP).append_text(item)
            else:
                lines.append(item)
        yield from (Padding.indent(line, INDENT) for line in lines)


@dataclass(frozen=True, slots=True)
class Framed:
    """Parts under a title: in a box on a terminal, without one in a pipe or on a dumb terminal.

    Attributes:
        title: Of the box; the first line where there is none.
        parts: From top to bottom.
        style: Of the box and its title.
    """

    title: str
    parts: tuple[RenderableType, ...]
    style: str

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> Iterator[RenderableType]:
        """Yield the box, or the title and the parts."""
        del options
        from rich.text import Text

        if console.is_terminal and not console.is_dumb_terminal:
            from rich.console import Group
            from rich.panel import Panel

            title = Text(self.title, style=f"bold {self.style}")
            yield Panel(Group(*self.parts), title=title, title_align="left", border_style=self.style)
            return
        yield Text(self.title)
        yield from self.parts
