"""The page for people: what is served, what it answers, how well that came true, and what stops it.

It only shows. Like the reports it is one HTML file without scripts, made of the files of the data folder and of what
the service remembers. The ledger is read step by step, a limited number of rows for each view, so that a large one
never holds up the answers.
"""

from __future__ import annotations

import base64
import hashlib
import threading
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING, Final
from urllib.parse import quote

import numpy as np

from mltrain.errors import MltrainError
from mltrain.monitoring.ledger import LEDGER, LedgerTail, read_newest
from mltrain.monitoring.outcomes import OutcomeFeed
from mltrain.names import check_version, join_first
from mltrain.report.calibration_curve import share_interval
from mltrain.report.page import MAX_REPORT_BYTES, REPORT_FILE, read_style, render
from mltrain.report.scales import linear_scale, widen
from mltrain.report.svg import Missing, Plot, make_figure
from mltrain.report.texts import DASH, format_number, format_percent
from mltrain.storage.disk_errors import disk_errors
from mltrain.store.listing import list_models
from mltrain.times import format_age, format_seconds, interval_ms
from mltrain.training.metrics import ece, reliability_table

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from mltrain.features.label_spec import LabelSpec
    from mltrain.killswitch.halts import HaltState
    from mltrain.report.svg import Shown
    from mltrain.service.scoring import Scoring, ServedModel
    from mltrain.store.listing import ModelRow
    from mltrain.store.store import Store

#: Seconds between two readings of the page if a person asks for that.
USUAL_REFRESH_S: Final = 10
#: Shortest and longest pause that the address may name, in s.
REFRESH_S: Final = (2, 3_600)

_MAX_VERSIONS: Final = 50
_MAX_ROWS: Final = 12
_MAX_SYMBOLS: Final = 8
# Rows of the ledger that one view reads: a second of work.
_ROWS_PER_VIEW: Final = 20_000
# Outcomes below which a calibration says nothing.
_FEWEST_OUTCOMES: Final = 200
_BINS: Final = 10
_CALIBRATION: Final = "Calibration of the answers"

_CSP: Final = (
    "default-src 'none'; style-src {}; img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)


@dataclass(frozen=True, slots=True)
class ShownState:
    """The state in one word.

    Attributes:
        word: The word.
        css: Its CSS class.
        line: What it means now.
    """

    word: str
    css: str
    line: str


class LiveCalibration:
    """Compares the probabilities of one version in a ledger with their outcomes, as far as it has been read.

    Args:
        folder: The folder of the ledger.
        served: The version.
        label: Its label.
    """

    def __init__(self, folder: Path, served: ServedModel, label: LabelSpec) -> None:
        self._version = served.version
        self._tail = LedgerTail(folder, since_ms=served.created_at_ms)
        self._feed = OutcomeFeed(label, interval_ms(served.interval), dict.fromkeys(served.symbols, 0.5))
        self._p: list[float] = []
        self._y: list[int] = []

    def draw(self) -> Shown:
        """Read on in the ledger, and draw predicted probabilities against observed frequencies.

        Raises:
            InputError: A line of the ledger was changed.
        """
        rows = list(islice(self._tail.new_rows(), _ROWS_PER_VIEW))
        for bar in self._feed.feed(row for row in rows if row.version == self._version):
            for outcome in bar.outcomes:
                self._p.append(outcome.p)
                self._y.append(outcome.y)
        more = " The ledger has more rows, which the next views read." if len(rows) == _ROWS_PER_VIEW else ""
        count = len(self._p)
        if count < _FEWEST_OUTCOMES:
            return Missing(
                _CALIBRATION, f"{count:,} answers have an outcome: it takes {_FEWEST_OUTCOMES} to say anything.{more}"
            )
        return _draw_calibration(np.array(self._p), np.array(self._y, np.uint8), more)


def _draw_calibration(p: np.ndarray, y: np.ndarray, more: str) -> Shown:
    bins = reliability_table(p, y, bins=_BINS)
    intervals = [share_interval(round(b.up_share * b.rows), b.rows) for b in bins]
    ends = [end for b in bins for end in (b.mean_p, b.up_share)] + [end for interval in intervals for end in interval]
    # One range for both sides, so that the diagonal is perfect calibration.
    low, high = widen(min(ends), max(ends))
    low, high = max(low, 0.0), min(high, 1.0)
    plot = Plot(
        linear_scale(low, high, "predicted: mean probability of up"),
        linear_scale(low, high, "observed: share that rose"),
    )
    plot.add_line([low, high], [low, high], "line ideal")
    plot.add_whiskers([b.mean_p for b in bins], intervals, "whisker c1")
    tips = [f"predicted {b.mean_p:.3f}, observed {b.up_share:.3f}, {b.rows:,} rows" for b in bins]
    plot.add_dots([b.mean_p for b in bins], [b.up_share for b in bins], "dot c1", radius=4, tips=tips)
    error = ece(p, y)
    return make_figure(
        "live-calibration",
        _CALIBRATION,
        plot,
        reading=f"{p.size:,} answers of this version whose outcome is known: expected calibration error {error:.4f}, "
        f"mean probability {p.mean():.4f}, share that rose {y.mean():.4f}. A dot on the diagonal means that the price "
        "rose as often as predicted; the lines are 90 % intervals for independent rows, too narrow where labels "
        f"overlap.{more}",
        alt=f"{len(bins)} bins, from {bins[0].mean_p:.3f} to {bins[-1].mean_p:.3f}.",
        legend=(("dot c1", "answers"), ("line ideal", "perfect")),
        wide=True,
    )


class Dashboard:
    """Renders the page; safe for several threads.

    Args:
        scoring: What the service answers with.
        store: The store of the versions.
        label: The label of what is served; a promotion never changes it.
    """

    def __init__(self, scoring: Scoring, store: Store, label: LabelSpec) -> None:
        self._scoring = scoring
        self._store = store
        self._label = label
        self._ledger = store.data_dir / LEDGER
        self._calibration: tuple[str, LiveCalibration] | None = None
        # When the models folder had changed when the versions were read, in ns, and their cells.
        self._versions: tuple[int, list[tuple[ModelRow, str | None, Sequence[str]]]] | None = None
        # One view at a time reads on in the ledger.
        self._lock = threading.Lock()

    def render(self, refresh_s: int | None) -> bytes:
        """Return the page, UTF-8; with `refresh_s` a browser reads it again after so many seconds.

        Raises:
            MltrainError: The version that is served, or the log of promotions, cannot be read.
        """
        served, halts = self._scoring.describe(), self._scoring.halts()
        ledger, no_ledger = self._list_ledger()
        versions = self._list_versions()
        return render(
            "dashboard.html.j2",
            served=served,
            symbols=join_first(served.symbols, _MAX_SYMBOLS),
            now=_as_shown(format_seconds(self._scoring.now_ms())),
            refresh_s=refresh_s,
            usual_refresh_s=USUAL_REFRESH_S,
            state=self._describe_state(halts),
            halts=[
                (h.mode, ", ".join(h.symbols) or "all", _as_shown(h.when) or DASH, h.why, h.trigger or h.by)
                for h in halts.halts
            ],
            tiles=self._list_tiles(served),
            newest=[
                (
                    row.symbol,
                    _as_shown(row.ts),
                    format_number(row.p),
                    format_number(row.raw),
                    row.refused or "",
                    row.permit or "",
                )
                for row in self._scoring.newest()
            ],
            calibration=self._draw_calibration(served),
            ledger=ledger,
            no_ledger=no_ledger,
            versions=versions[:_MAX_VERSIONS],
            hidden=max(0, len(versions) - _MAX_VERSIONS),
        )

    def read_report(self, version: str) -> bytes:
        """Return the report of a version, as it was published.

        Raises:
            UsageError: That is no version's name.
            InputError: There is no such version, it is damaged, or it has no report.
        """
        return self._store.open_named(check_version(version)).read(REPORT_FILE, max_bytes=MAX_REPORT_BYTES)

    def _describe_state(self, halts: HaltState) -> ShownState:
        modes = self._scoring.halted_symbols()
        obstacles = [code for code in self._scoring.find_obstacles() if code != "halted"]
        if modes["halt"]:
            return ShownState(
                "Halted", "nogo", f"{modes['halt']} of {len(self._scoring.symbols)} symbols get no answer."
            )
        if modes["reduce"] or halts.halts:
            return ShownState("Restricted", "nogo", "Answers may only be used to make positions smaller.")
        if obstacles:
            return ShownState("Not ready", "nogo", f"Answers are refused: {', '.join(obstacles)}.")
        return ShownState("Serving", "go", "Every symbol is answered.")

    def _list_tiles(self, served: ServedModel) -> list[tuple[str, str, str]]:
        """Return name, value and note of the figures at the top."""
        now_ms, age_s = self._scoring.now_ms(), self._scoring.data_age_s()
        trained = f"on {_as_shown(served.trained_from)[:10]} to {_as_shown(served.trained_to)[:10]}"
        return [
            ("Verdict", served.verdict, "of its gates, on its holdout"),
            ("Model age", format_age((now_ms - served.created_at_ms) / 1000), trained),
            (
                "Data age",
                DASH if age_s is None else format_age(age_s),
                "since the close of the oldest symbol's newest candle",
            ),
            (
                "Candles",
                "from the source" if self._scoring.is_watching else "from requests",
                "that answers are computed from",
            ),
            ("Lookback", f"{served.lookback_bars:,}", "candles for each answer"),
            ("Features", f"{len(served.features):,}", f"card {served.card_sha256[:12]}"),
        ]

    def _list_ledger(self) -> tuple[list[tuple[str, ...]], str]:
        """Return the cells of the newest rows, or why there are none."""
        try:
            rows = read_newest(self._ledger, _MAX_ROWS)
        except MltrainError as err:
            return [], err.message
        cells: list[tuple[str, ...]] = [
            (
                _as_shown(row.at),
                row.symbol or DASH,
                _as_shown(row.ts),
                row.version,
                format_number(row.p),
                row.refused or "",
                row.permit or "",
            )
            for row in rows
        ]
        return cells, "There is no ledger in this data folder."

    def _draw_calibration(self, served: ServedModel) -> Shown:
        with self._lock:
            if self._calibration is None or self._calibration[0] != served.version:
                self._calibration = (served.version, LiveCalibration(self._ledger, served, self._label))
            try:
                return self._calibration[1].draw()
            except MltrainError as err:
                # Read again from the start next time.
                self._calibration = None
                return Missing(_CALIBRATION, err.message)

    def _list_versions(self) -> list[tuple[ModelRow, str | None, Sequence[str]]]:
        """Return each version, newest first, with the link to its report and its figures.

        A publication and a promotion change the folder; nothing is read again before.
        """
        with disk_errors(self._store.models, "read"):
            changed_ns = self._store.models.stat().st_mtime_ns
        known = self._versions
        if known is None or known[0] != changed_ns:
            rows = reversed(list_models(self._store))
            known = self._versions = (
                changed_ns,
                [(row, self._find_report(row), _list_figures(row)) for row in rows],
            )
        return known[1]

    def _find_report(self, row: ModelRow) -> str | None:
        """Return the link to a version's report; None if it has none."""
        found = self._store.read_row(row.version).version
        has_report = found is not None and found.manifest.entry(REPORT_FILE) is not None
        return f"/reports/{quote(row.version)}" if has_report else None


def page_policy() -> str:
    """Return the Content-Security-Policy of the page: its own style, and nothing else."""
    digest = base64.b64encode(hashlib.sha256(read_style().encode()).digest()).decode()
    return _CSP.format(f"'sha256-{digest}'")


def report_policy() -> str:
    """Return the Content-Security-Policy of a report, whose style may be that of an earlier release."""
    return _CSP.format("'unsafe-inline'")


def _list_figures(row: ModelRow) -> Sequence[str]:
    return format_percent(row.accuracy), format_number(row.log_loss, 5), format_number(row.calibration_ece)


def _as_shown(time: str | None) -> str:
    """Return a time such as 2025-10-15T12:00:00Z as tables show it; a dash for None."""
    return DASH if time is None else time.replace("T", " ").removesuffix("Z")
