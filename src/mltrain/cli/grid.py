"""Tables and panels that fit the terminal they are printed on.

A `Grid` is laid out when the width is known: first as a table with headers on one line; then with headers folded at
their blanks; then without the columns that may be left out; and where even that is too wide, as one short paragraph
a row. No cell is ever cut: what does not fit on its line goes on the next one.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from rich.console import Console, ConsoleOptions, RenderableType
    from rich.text import Text

GAP: Final = 2  # blanks between columns
LEAST_FOLD: Final = 12  # a folding column narrower than that is a tower of syllables
MOST_LINES: Final = 4  # and one of more lines than about that is a tower, too
LEAST_BAR: Final = 8
MOST_BAR: Final = 48
INDENT: Final = 2
MARKS: Final = ("─", "█")  # of the rule under the headers, and of a bar
ASCII: Final = ("-", "#")  # the same where the terminal speaks no Unicode

#: Words that mean the same wherever they are a whole cell; only a terminal that shows colours shows these.
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
    """One column of a grid.

    Attributes:
        header: Above it.
        kind: "r": right-aligned; "f": may fold, and is left out where every cell is empty; "b": a bar whose cells are
            shares from 0 to 1; "o": left-aligned, left out where there is no room; else left-aligned. All but "f"
            stay on one line.
        cells: From top to bottom.
    """

    header: str
    kind: str
    cells: tuple[Text, ...]

    def width(self) -> int:
        """Return the widest cell in columns of the terminal; a bar's natural width is the most it may have."""
        return MOST_BAR if self.kind == "b" else max((cell.cell_len for cell in self.cells), default=0)

    def least(self) -> int:
        """Return the width below which it cannot be shown as a column."""
        widest = self.width()
        return {"f": min(widest, max(LEAST_FOLD, widest // MOST_LINES)), "b": LEAST_BAR}.get(self.kind, widest)

    def header_lines(self, *, folded: bool) -> list[str]:
        """Return the header, one word a line where it is folded and wider than the cells."""
        return self.header.split() if folded and len(self.header) > self.width() else [self.header]


@dataclass(frozen=True, slots=True)
class Grid:
    """Rows under headers; a Rich renderable.

    Attributes:
        title: Shown above, in bold; None for none.
        columns: From left to right.
    """

    title: str | None
    columns: tuple[Column, ...]

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> Iterator[RenderableType]:
        """Yield the lines for the width that there is."""
        from rich.text import Text

        shown = [c for c in self.columns if not (c.kind == "f" and not any(cell.plain for cell in c.cells))]
        needed = [c for c in shown if c.kind != "o"]
        if self.title:
            yield Text(self.title, style="bold")
        for columns, folded in ((shown, False), (shown, True), (needed, False), (needed, True)):
            widths = _fit(columns, options.max_width, folded=folded)
            if widths is not None:
                yield from _lines(columns, widths, console, folded=folded, marks=ASCII if options.ascii_only else MARKS)
                return
        yield from _records(shown, options.max_width, console)


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
        del options  # a part is told its own
        from rich.text import Text

        if console.is_terminal and not console.is_dumb_terminal:
            from rich.console import Group
            from rich.panel import Panel

            title = Text(self.title, style=f"bold {self.style}")
            yield Panel(Group(*self.parts), title=title, title_align="left", border_style=self.style)
            return
        yield Text(self.title)
        yield from self.parts


def _fit(columns: Sequence[Column], room: int, *, folded: bool) -> list[int] | None:
    """Return the columns' widths within `room`; None where they do not fit."""
    headers = [max(map(len, c.header_lines(folded=folded)), default=0) for c in columns]
    least = [max(c.least(), header) for c, header in zip(columns, headers, strict=True)]
    left = room - sum(least) - GAP * (len(columns) - 1)
    if left < 0:
        return None
    wanted = [max(c.width(), header) - low for c, header, low in zip(columns, headers, least, strict=True)]
    widths = list(least)
    while left > 0 and any(wanted):
        share = max(1, left // sum(1 for w in wanted if w))
        for i, want in enumerate(wanted):
            more = min(want, share, left)
            widths[i], wanted[i], left = widths[i] + more, want - more, left - more
    return widths


def _lines(
    columns: Sequence[Column], widths: Sequence[int], console: Console, *, folded: bool, marks: tuple[str, str]
) -> Iterator[Text]:
    from rich.text import Text

    headers = [[Text(part, style="bold") for part in c.header_lines(folded=folded)] for c in columns]
    height = max(map(len, headers), default=0)
    # Folded headers stand on the rule, as figures do.
    yield from _joined([[Text()] * (height - len(h)) + h for h in headers], columns, widths)
    rule, full = marks
    yield Text(rule * (sum(widths) + GAP * (len(widths) - 1)), style="dim")
    for row in zip(*(c.cells for c in columns), strict=True):
        blocks = [_block(cell, c, w, console, full=full) for cell, c, w in zip(row, columns, widths, strict=True)]
        yield from _joined(blocks, columns, widths)


def _block(cell: Text, column: Column, width: int, console: Console, *, full: str) -> list[Text]:
    from rich.text import Text

    if column.kind == "b":
        return [Text(full * round(width * float(cell.plain or 0)))]
    return list(cell.wrap(console, width)) if cell.cell_len > width else [cell]


def _joined(blocks: Sequence[list[Text]], columns: Sequence[Column], widths: Sequence[int]) -> Iterator[Text]:
    """Yield the lines of cells side by side, none with blanks at its end."""
    from rich.text import Text

    for i in range(max(map(len, blocks), default=0)):
        line, debt = Text(), 0  # blanks are written only before something that stands behind them
        for block, column, width in zip(blocks, columns, widths, strict=True):
            part = block[i] if i < len(block) else Text()
            part = part.copy()
            part.rstrip()
            blank = width - part.cell_len
            before = blank if column.kind == "r" else 0
            if part.plain:
                line.append(" " * (debt + before)).append_text(part)
                debt = blank - before
            else:
                debt += width
            debt += GAP
        yield line


def _records(columns: Sequence[Column], room: int, console: Console) -> Iterator[Text]:
    """Yield a paragraph a row: its first cell, then every other with its header, as many on a line as fit."""
    from rich.text import Text

    head, *rest = columns
    for row in range(len(head.cells)):
        name = f"{head.header} " if head.kind == "r" else ""  # a number alone says nothing
        first = Text.assemble((name, "dim"), (head.cells[row].plain, "bold"))
        for part in first.wrap(console, room):
            part.rstrip()
            yield part
        line = Text()
        for column in rest:
            cell = column.cells[row]
            if cell.plain in {"", "-"} or column.kind == "b":  # what is not there needs no words
                continue
            item = Text.assemble((f"{column.header} ", "dim") if column.header else "", cell)
            if line and INDENT + line.cell_len + GAP + item.cell_len > room:
                yield from _indented(line, room, console)
                line = Text()
            line = Text.assemble(line, " " * GAP, item) if line else item
        if line:
            yield from _indented(line, room, console)


def _indented(line: Text, room: int, console: Console) -> Iterator[Text]:
    from rich.text import Text

    for part in line.wrap(console, max(room - INDENT, 1)):
        part.rstrip()
        yield Text.assemble(" " * INDENT, part)


def grid(title: str | None, columns: Sequence[str], rows: Sequence[Sequence[object]], kinds: str) -> Grid:
    """Return a grid of plain cells.

    Args:
        title: Shown above; None for none.
        columns: Headers.
        rows: Cells; None is shown as a dash; a Text keeps its style, a known word such as GO gets one.
        kinds: One character a column, as `Column.kind`; those missing at the end are blanks.
    """
    turned = list(zip(*rows, strict=True)) if rows else [()] * len(columns)
    kinds = kinds.ljust(len(columns))
    return Grid(
        title,
        tuple(
            Column(header, kind, tuple(map(_cell, cells)))
            for header, kind, cells in zip(columns, kinds, turned, strict=True)
        ),
    )


def _cell(value: object) -> Text:
    from rich.text import Text

    if isinstance(value, Text):
        return value
    text = "-" if value is None else str(value)
    return Text(text, style=STYLES.get(text, ""))
