"""Keep the newest candles of a source at hand, so that a request need only name symbols.

A thread polls the source as `predict --watch` does (`mltrain.pipeline.watch`). Requests are scored from the candles
that it holds, at the source's time, which is that of the last poll plus what has passed since: if the source falls
silent, the candles become stale.
"""

from __future__ import annotations

import threading
import time
import traceback
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from mltrain.candles.frame import times_ms
from mltrain.pipeline.predict import read_inputs
from mltrain.pipeline.watch import MAX_PAUSE_S, Watch
from mltrain.times import TimeRange, interval_ms

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    import polars as pl

    from mltrain.monitoring.ledger import Ledger
    from mltrain.pipeline.predict import GivenInputs, Inputs
    from mltrain.progress import Progress
    from mltrain.serving.model import Model
    from mltrain.sources.source import Source

# Seconds that `stop` waits for a request to the source in progress; the thread then ends with the process.
_JOIN_S: Final = 5.0


@dataclass(frozen=True, slots=True, eq=False)
class HeldCandles:
    """What a poll has brought.

    Attributes:
        candles: The newest candles of each symbol and leader.
        inputs: The values of the model's inputs.
        clock_ms: The source's time, ms UTC.
        taken_s: When the poll began, by the monotonic clock.
    """

    candles: Mapping[str, pl.DataFrame]
    inputs: Inputs
    clock_ms: int
    taken_s: float


class CandleFeed:
    """A thread that polls a source.

    Args:
        model: The model, which may follow the live version.
        source: The source of the candles.
        progress: Receives a warning for each fault, in the thread.
        inputs: As for `mltrain.pipeline.predict.read_inputs`.
        ledger: Records the row of each candle as it closes; None: nothing does.
        clock: Returns seconds since 1970 for a source without a clock, such as files; None: the source has one.
        monotonic: Returns seconds of a clock that is never set.
    """

    def __init__(
        self,
        model: Model,
        source: Source,
        progress: Progress,
        *,
        inputs: GivenInputs = None,
        ledger: Ledger | None = None,
        clock: Callable[[], float] | None = None,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._model = model
        self._source = source
        self._progress = progress
        self._inputs = inputs
        self._clock = clock
        self._monotonic = monotonic
        self._watch = Watch(model, source, progress, inputs=inputs, clock=clock, ledger=ledger)
        self._held: HeldCandles | None = None
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="mltrain-feed", daemon=True)

    def start(self) -> None:
        """Check that the source has every symbol, and begin to poll.

        Raises:
            InputError: The source lacks a symbol or a leader of the model.
            SourceError: The source does not answer.
        """
        self._watch.check_symbols()
        self._thread.start()

    def stop(self) -> None:
        """End the thread, after a request to the source in progress."""
        self._stopping.set()
        self._thread.join(_JOIN_S)

    @property
    def held(self) -> HeldCandles | None:
        """What the last poll that was answered has brought; None before the first one."""
        return self._held

    def now_ms(self) -> int | None:
        """Return the time at which candles are judged, ms UTC; None before the first poll was answered."""
        if self._clock is not None:
            return int(self._clock() * 1000)
        held = self._held
        return None if held is None else held.clock_ms + int((self._monotonic() - held.taken_s) * 1000)

    def ages_s(self) -> dict[str, float]:
        """Return the seconds since the close of the newest candle of each symbol of which there is one."""
        held, now_ms = self._held, self.now_ms()
        if held is None or now_ms is None:
            return {}
        step_ms = interval_ms(self._model.interval)
        return {
            symbol: (now_ms - int(times_ms(frame)[-1]) - step_ms) / 1000
            for symbol, frame in held.candles.items()
            if frame.height and symbol in self._model.symbols
        }

    def poll(self) -> float:
        """Poll once; return the seconds to wait until the next poll."""
        begin_s = self._monotonic()
        poll = self._watch.poll()
        if poll.clock_ms is not None:
            candles, inputs = self._watch.held_candles(), {} if self._held is None else self._held.inputs
            if poll.rows.height or self._held is None:
                inputs = self._read_inputs(candles)
            self._held = HeldCandles(candles, inputs, poll.clock_ms, begin_s)
        return poll.wait_s

    def _read_inputs(self, candles: Mapping[str, pl.DataFrame]) -> Inputs:
        times = [ts for frame in candles.values() if frame.height for ts in (frame["ts"][0], frame["ts"][-1])]
        if not times or not self._model.feature_set.inputs:
            return {}
        first, last = (int(time.timestamp() * 1000) for time in (min(times), max(times)))
        window = TimeRange(first, last + interval_ms(self._model.interval))
        return read_inputs(self._model, self._inputs, source=self._source, window=window)

    def _run(self) -> None:
        while not self._stopping.is_set():
            try:
                wait_s = self.poll()
            except Exception as err:  # noqa: BLE001 -- a service must not fall silent because of a bug
                self._progress.warn(f"a bug while reading candles: {''.join(traceback.format_exception(err)).rstrip()}")
                wait_s = MAX_PAUSE_S
            self._stopping.wait(wait_s)
