"""The report's figures by themselves: shown by a notebook, or written to a file."""

from __future__ import annotations

import re
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Final

from mltrain.report.page import render
from mltrain.report.svg import Figure
from mltrain.storage.writing import write_outputs

if TYPE_CHECKING:
    import os

    from mltrain.report.svg import Shown

# Title, legend and caption of a figure, in CSS pixels, in addition to its picture.
_TEXT_PX: Final = 190
_HEIGHT: Final = re.compile(r' height="([0-9]+)"')


@dataclass(frozen=True, slots=True, eq=False)
class Chart:
    """Figures that a notebook shows when a cell ends with them; they need no other package.

    Attributes:
        title: What they show.
        figures: The figures, or why one cannot be drawn.
    """

    title: str
    figures: tuple[Shown, ...]

    def __repr__(self) -> str:
        return f"<mltrain.Chart {self.title}>"

    def to_html(self) -> str:
        """Return an HTML page of its own, without scripts or network access, in a light and a dark scheme."""
        return render("charts.html.j2", title=self.title, figures=self.figures).decode()

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the page to a file; an existing one is replaced.

        Raises:
            MachineError: The file cannot be written.
        """
        file = Path(path)
        write_outputs(file.parent, {file.name: self.to_html().encode()})

    def _repr_html_(self) -> str:
        """Return the page inside a frame, so that its styles and the notebook's do not mix."""
        height_px = sum(
            _TEXT_PX + int(found[1])
            for figure in self.figures
            if isinstance(figure, Figure) and (found := _HEIGHT.search(figure.svg))
        )
        page = escape(self.to_html(), quote=True)
        return f'<iframe srcdoc="{page}" title="{escape(self.title)}" width="100%" height="{height_px or 80}"></iframe>'
