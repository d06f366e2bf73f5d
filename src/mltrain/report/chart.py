"""The report's figures by themselves: shown by a notebook, or written to a file."""

from __future__ import annotations

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
_TEXT_PX: Final = 200
# Above and below all figures.
_MARGINS_PX: Final = 24


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
        """Return a whole HTML page, without scripts or network access, in a light and a dark scheme."""
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
        page = escape(self.to_html(), quote=True)
        return (
            f'<iframe srcdoc="{page}" title="{escape(self.title)}" style="border: 0" width="100%" '
            f'height="{self._height_px()}"></iframe>'
        )

    def _height_px(self) -> int:
        """Return the height of the page in CSS pixels; in a narrow notebook it is higher, and the frame scrolls."""
        half: list[int] = []
        total_px = _MARGINS_PX
        for figure in self.figures:
            if isinstance(figure, Figure) and figure.wide:
                total_px += _TEXT_PX + figure.height_px
            else:
                half.append(_TEXT_PX + (figure.height_px if isinstance(figure, Figure) else 0))
        # Figures that are not wide stand in pairs.
        return total_px + sum(max(half[ix : ix + 2]) for ix in range(0, len(half), 2))
