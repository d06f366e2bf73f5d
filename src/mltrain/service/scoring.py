"""Answer the requests of clients with a model, whatever carries them.

Every answer is that of `Model.predict_candles` at the moment of the call: its refusals, its promotions, its halts.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import polars as pl

from mltrain.candles.frame import CANDLE_SCHEMA
from mltrain.card.model_card import ModelCard
from mltrain.errors import InputError
from mltrain.killswitch.gate import HALTED, HaltGate
from mltrain.service.predict_body import read_candle_tables, read_input_tables, read_predict_body
from mltrain.serving.rows import EXPIRED, MAX_AGE_BARS, STALE
from mltrain.store.store import open_path
from mltrain.times import TIME_FORMAT, interval_ms, parse_time

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from mltrain.documents.values import Json
    from mltrain.killswitch.halts import HaltState, Mode
    from mltrain.service.candle_feed import CandleFeed
    from mltrain.serving.model import Model

#: Why a service is not ready: no poll of its source was answered yet.
NO_CANDLES_YET: Final = "no-candles"
NO_CANDLES: Final = pl.DataFrame(schema=dict(CANDLE_SCHEMA))


@dataclass(frozen=True, slots=True)
class ScoredRow:
    """The prediction for the newest candle of a symbol.

    Attributes:
        ts: Open time of the candle, UTC; None: there is no candle.
        symbol: The symbol.
        p: Calibrated probability that the label is up, in [0, 1]; None where refused.
        raw: Raw score of the booster, in (0, 1); None where refused.
        refused: Why there is no probability; None: there is one.
        permit: "reduce": positions may only shrink; None: no limit.
    """

    ts: str | None
    symbol: str
    p: float | None
    raw: float | None
    refused: str | None
    permit: str | None


@dataclass(frozen=True, slots=True)
class PredictAnswer:
    """The answer to a request for predictions.

    Attributes:
        version: Name of the version that made them.
        rows: One row per symbol.
    """

    version: str
    rows: list[ScoredRow]


@dataclass(frozen=True, slots=True)
class ServedModel:
    """What is served.

    Attributes:
        version: Name of the version.
        slot: Its slot.
        verdict: The verdict of its gates.
        symbols: The symbols that it was trained on.
        leaders: The symbols whose candles its features read besides.
        interval: Interval of the candles, such as "1m".
        lookback_bars: Consecutive candles that a prediction needs, the newest included.
        features: Names of the features, in order.
        inputs: Names of the inputs that the features read.
        trained_from: Open time of the first candle that it learned from, UTC; None: the card does not say.
        trained_to: Open time of the last one, UTC.
        created_at: Time of training, UTC.
        card_sha256: SHA-256 of its Model Card.
    """

    version: str
    slot: str
    verdict: str
    symbols: tuple[str, ...]
    leaders: tuple[str, ...]
    interval: str
    lookback_bars: int
    features: tuple[str, ...]
    inputs: tuple[str, ...]
    trained_from: str | None
    trained_to: str | None
    created_at: str
    card_sha256: str

    @property
    def created_at_ms(self) -> int:
        """Time of training, ms UTC."""
        return parse_time(self.created_at)


class NotReadyError(Exception):
    """The service has read no candles yet."""


class Scoring:
    """Answers requests with a model; safe for several threads.

    Args:
        model: The model.
        clock: Returns seconds since 1970, UTC.
        feed: Holds the newest candles, for requests that name symbols; None: requests must bring candles.
    """

    def __init__(self, model: Model, *, clock: Callable[[], float], feed: CandleFeed | None = None) -> None:
        self._model = model
        self._clock = clock
        self._feed = feed
        self._gate = HaltGate(None if model.folder is None else model.folder.parent)
        self._served: ServedModel | None = None
        self._newest: dict[str, ScoredRow] = {}
        self._lock = threading.Lock()

    @property
    def version(self) -> str:
        """Name of the version that answers now."""
        return self._model.version

    @property
    def symbols(self) -> tuple[str, ...]:
        """The symbols of the model."""
        return self._model.symbols

    @property
    def is_watching(self) -> bool:
        """Whether it reads candles itself."""
        return self._feed is not None

    def now_ms(self) -> int:
        """Return the machine's time, ms UTC."""
        return int(self._clock() * 1000)

    def predict(self, document: Json) -> PredictAnswer:
        """Return the predictions that the parsed body of a request asks for.

        Raises:
            UsageError: `now_ms` is not a time in ms, or an input is unknown.
            InputError: The body is no such request, or its candles or inputs cannot be read.
            NotReadyError: It names symbols, and no candles were read yet.
        """
        body = read_predict_body(document)
        if body.symbols is not None:
            return self._predict_symbols(body.symbols)
        answer = self._score(
            read_candle_tables(body.candles),
            inputs=read_input_tables(body.inputs),
            now_ms=self.now_ms() if body.now_ms is None else body.now_ms,
        )
        # A request that names the time is a replay.
        if body.now_ms is None:
            self._keep(answer.rows)
        return answer

    def _predict_symbols(self, symbols: tuple[str, ...]) -> PredictAnswer:
        """Return the predictions of the candles that the feed holds."""
        if self._feed is None:
            raise InputError(
                "this service does not read candles itself", hint='send "candles", or start it with --watch'
            )
        held, now_ms = self._feed.held, self._feed.now_ms()
        if held is None or now_ms is None:
            raise NotReadyError
        wanted = dict.fromkeys([*symbols, *self._model.feature_set.leaders])
        # A symbol of which there is no candle gets a row, too.
        candles = {symbol: held.candles.get(symbol, NO_CANDLES) for symbol in wanted}
        answer = self._score(candles, inputs=held.inputs, now_ms=now_ms)
        rows = {row.symbol: row for row in answer.rows}
        # Without those of leaders that were not asked for.
        answer = PredictAnswer(answer.version, [rows[symbol] for symbol in dict.fromkeys(symbols)])
        self._keep(answer.rows)
        return answer

    def _score(self, candles: object, *, inputs: Mapping[str, object] | None, now_ms: int) -> PredictAnswer:
        while True:
            version = self._model.version
            table = self._model.predict_candles(candles, inputs=inputs, now_ms=now_ms)
            # A promotion between the two lines: which version has answered is not known.
            if version == self._model.version:
                return PredictAnswer(version, _as_rows(table))

    def _keep(self, rows: list[ScoredRow]) -> None:
        """Keep the newest answer of each symbol of the model."""
        symbols = self._model.symbols
        with self._lock:
            self._newest |= {row.symbol: row for row in rows if row.symbol in symbols}

    def newest(self) -> tuple[ScoredRow, ...]:
        """Return the newest answer of each symbol of the model, by symbol."""
        with self._lock:
            return tuple(row for _, row in sorted(self._newest.items()))

    def data_age_s(self) -> float | None:
        """Return the seconds since the close of the newest candle; None before the first one.

        Of several symbols, the one whose newest candle is oldest counts. The candles are those of the feed or, without
        one, those of the answers.
        """
        if self._feed is not None:
            return max(self._feed.ages_s().values(), default=None)
        step_ms = interval_ms(self._model.interval)
        closes_ms = [parse_time(row.ts) + step_ms for row in self.newest() if row.ts is not None]
        return (self.now_ms() - min(closes_ms)) / 1000 if closes_ms else None

    def halts(self) -> HaltState:
        """Return the halts in force."""
        return self._gate.state()

    def halted_symbols(self) -> dict[Mode, int]:
        """Return how many symbols of the model are halted, and how many reduced."""
        state = self._gate.state()
        modes = [state.mode_of(symbol) for symbol in self._model.symbols]
        return {"halt": modes.count("halt"), "reduce": modes.count("reduce")}

    def describe(self) -> ServedModel:
        """Return what is served now.

        Raises:
            InputError: The version was removed, or is damaged.
        """
        served = self._served
        if served is None or served.version != self._model.version:
            served = self._served = _describe(self._model)
        return served

    def find_obstacles(self) -> tuple[str, ...]:
        """Return why the service should get no requests now, as codes; empty if it is ready.

        One symbol that can be answered is enough.
        """
        reasons = []
        if self.halted_symbols()["halt"] == len(self._model.symbols):
            reasons.append(HALTED)
        if self._model.is_expired(self.now_ms()):
            reasons.append(EXPIRED)
        if self._feed is not None:
            ages_s = self._feed.ages_s().values()
            if not ages_s:
                reasons.append(NO_CANDLES_YET)
            elif min(ages_s) >= MAX_AGE_BARS * interval_ms(self._model.interval) / 1000:
                reasons.append(STALE)
        return tuple(reasons)


def _describe(model: Model) -> ServedModel:
    folder = model.folder
    if folder is None:
        raise InputError("the model was not published: it has no card")
    version = open_path(folder)
    card, feature_set = ModelCard(model.card), model.feature_set
    return ServedModel(
        version=version.name,
        slot=version.slot,
        verdict=version.verdict,
        symbols=model.symbols,
        leaders=feature_set.leaders,
        interval=model.interval,
        lookback_bars=model.lookback_bars,
        features=feature_set.names,
        inputs=tuple(spec.name for spec in feature_set.inputs),
        trained_from=card.text("train", "range", "start"),
        trained_to=card.text("train", "range", "end"),
        created_at=version.created_at,
        card_sha256=version.card_sha256,
    )


def _as_rows(table: pl.DataFrame) -> list[ScoredRow]:
    """Return the rows of `Model.predict_candles`."""
    return [
        ScoredRow(
            ts=None if row["ts"] is None else row["ts"].strftime(TIME_FORMAT),
            symbol=row["symbol"],
            p=row["p"],
            raw=row["raw"],
            refused=row["refused"],
            permit=row.get("permit"),
        )
        for row in table.to_dicts()
    ]
