"""A naive backtest, written from the specification alone: the oracle for the fast engine.

One loop over time, dicts, no arrays. Read it next to the specification, paragraph "The simulation, exactly". Every step
runs over all symbols before the next one starts. Candle t opens at time t and closes at t + interval; n is the number
of symbols, d is `delay_bars`. What the specification leaves open is decided here, each time with the pessimistic and
simplest reading:

Time
 1. A symbol's grid is every interval from its first to its last candle, and the run's times are the sorted union: a gap
    of the only symbol has times too, with marks and blind bars.
 2. Symbols go in sorted order, in every step and sum: the order of the input then changes no bit.
 3. An equity point (t, equity) is the state at the close of candle t.
 4. `Fill.ts` is clock time, so that `ts >= decided_ts + interval` always: a last bar is closed at t + interval.
    `Fill.candle_ts` is the candle a fill belongs to: equity at t follows from the fills with `candle_ts <= t`.
Funding
 5. Events in (t - interval, t] are paid by the position held before the open of t, also where there is no candle.
 6. Their price is the last close before t: the close of t is not known yet.
 7. Before a last bar is closed, the events in (t, t + interval] are paid at its close: the position was held that long.
 8. Spot pays no funding. On perp a symbol without an entry in `funding` is an error, never 0 (freqtrade#10888).
Decisions
 9. A symbol decides at each of its candles except its last one, after which nothing could fill.
10. Target units = weight / n * equity / close, with the mark and the close of t. n is fixed: no rebalancing when a
    symbol starts or ends.
11. Only a weight that differs (`!=`) from the last decided weight (at first 0) places an order, whatever has been
    filled. With the same weight the pending rest goes on filling: no new sizing.
12. An order arrives at the first candle that opens at or after decided_ts + (1 + d) * interval and then replaces what
    is pending by target units - units. The newest of several wins; until then the older rest goes on filling. A delay
    that started again with each decision would never trade a policy that changes often.
13. Refused: the first three candles in a row change nothing, from the fourth on the weight is 0. Gaps do not count.
14. NaN changes nothing, not even towards flat, and is neither an answer nor a refusal in the count of rule 13.
15. An order decided earlier fills on a refused candle too: p of t is not known at the open of t.
16. Spot cash may fall a little below 0 when the open is above the sizing close: a cap would depend on the order of
    symbols. On spot, equity below 0 sizes as 0.
Policies ("state" is the last decided weight; with side "long" a negative weight becomes 0)
17. sign: p = 0.5 is 0.
18. threshold: strictly beyond `enter`, or below 1 - `enter`.
19. hysteresis: in at p >= enter and at p <= 1 - enter, except at 0.5; a long is out at p < 1 - exit, a short at
    p > exit, strictly; a direct flip is possible.
20. cost-aware: moves from its state to the sign policy's weight only if change * edge * run_length / horizon is
    strictly above |change| * (taker + spread / 2 + slippage): one way, and taker also with maker fills. The edge is
    that of `horizon` bars. p = 0.5 has none, and stays.
21. kelly: without a variance above 0 the weight is 0.
Fills
22. No volume (0 or NaN) and a finite participation: nothing fills. A whole fill leaves a rest of exactly 0.
23. Impact: sigma = sqrt(sum of squared close-to-close returns), and quote volume, over the last N candles before t, N
    being 24 hours of them or 1; the symbol's first candle counts open to close. Fewer candles: those there are, as both
    grow alike with the window. NaN volume is 0, no volume at all a ratio of 1. At most 100 % with the other costs: no
    price below 0.
24. Maker: the limit is the deciding close; it takes low < limit * (1 - 1e-4) or high > limit * (1 + 1e-4) to fill, at
    the limit. A rest keeps its limit. An order not traded through is dropped, and the next decision places a new one to
    the same target units, with its own close as the limit, unless a newer one is under way: else a missed exit would
    leave a position open against a target of 0.
25. A symbol's last bar: after the fills at its open all orders end and the whole position closes at the close, whatever
    the volume, as a taker with all costs, before the mark.
26. Each fill pays its own fee on its own price, opening and closing alike (backtesting.py#1218, #1273).
Gaps and ruin
27. Without a candle: no fill, no decision, the last close marks, orders wait; with a position it is one blind bar.
28. Ruin, perp only: equity <= 0 at a mark ends the run with that point. Nothing is closed: units and cash stay.
29. The input is valid: nothing is checked here.
"""

from __future__ import annotations

import math
import random
from dataclasses import dataclass, field

DAY_MS = 86_400_000
# A limit counts as traded through only beyond this part of its price.
THROUGH = 1e-4
# Refused candles in a row that keep the position.
PATIENCE_BARS = 3


@dataclass(frozen=True)
class Bar:
    """One candle of one symbol.

    Attributes:
        ts: Open time, ms UTC.
        open: Price in quote currency, as are high, low and close.
        high: Highest price.
        low: Lowest price.
        close: Price at ts + interval.
        volume: Units traded; NaN or 0 for none.
        quote_volume: Quote currency traded; NaN counts as 0.
        p: Probability that the answer is "up"; None if refused; NaN never trades.
    """

    ts: int
    open: float
    high: float
    low: float
    close: float
    volume: float
    quote_volume: float
    p: float | None


@dataclass(frozen=True, kw_only=True)
class Settings:
    """The options of one run, and per symbol what the training rows say.

    Attributes:
        interval_ms: Length of a candle.
        horizon: Bars of the label.
        policy: cost-aware, threshold, hysteresis, sign or kelly.
        enter: Probability at which a position opens.
        exit: Probability at which it closes (hysteresis).
        kelly_fraction: Part of the full Kelly weight.
        max_weight: Largest absolute weight of a symbol, 1 being its equal share of equity.
        side: long or both.
        market: spot or perp.
        taker_bps: Fee of a fill at the open or close.
        maker_bps: Fee of a fill at a limit.
        spread_bps: Whole spread; each fill pays half.
        slippage_bps: Paid by each taker fill.
        impact: Y of the square-root law; 0 for none.
        participation: Largest part of a candle's volume that fills; inf for no limit.
        fill: next-open or maker.
        delay_bars: Bars between the decision's next open and the arrival of its order.
        equity: Cash at the start, quote currency.
        move: Mean absolute move over the horizon, as a fraction, by symbol.
        variance: Variance of the move over the horizon, by symbol.
        run_length: Mean bars between changes of sign(p - 0.5), by symbol.
    """

    interval_ms: int
    horizon: int = 1
    policy: str = "cost-aware"
    enter: float = 0.53
    exit: float = 0.505
    kelly_fraction: float = 0.25
    max_weight: float = 1.0
    side: str = "both"
    market: str = "perp"
    taker_bps: float = 5.0
    maker_bps: float = 2.0
    spread_bps: float = 0.0
    slippage_bps: float = 1.0
    impact: float = 0.0
    participation: float = 0.1
    fill: str = "next-open"
    delay_bars: int = 0
    equity: float = 10_000.0
    move: dict[str, float]
    variance: dict[str, float]
    run_length: dict[str, float]


@dataclass(frozen=True)
class Fill:
    """One trade.

    Attributes:
        ts: When it took place, ms UTC: an open, or for the closing of a last bar its close.
        decided_ts: Open time of the candle whose close decided it.
        candle_ts: Open time of the candle it took place in.
        symbol: What was traded.
        units: Bought (positive) or sold (negative).
        reference: The open, limit or close, before costs.
        price: What was paid per unit, with spread, slippage and impact, without the fee.
        fee: Quote currency, as are the next three.
        spread: Paid within the price, as are the next two.
        slippage: See `Settings.slippage_bps`.
        impact: See `Settings.impact`.
    """

    ts: int
    decided_ts: int
    candle_ts: int
    symbol: str
    units: float
    reference: float
    price: float
    fee: float
    spread: float
    slippage: float
    impact: float


@dataclass
class Result:
    """The account, while it trades and at its end; money in quote currency.

    Attributes:
        cash: Without the positions.
        units: Position by symbol; a short one is negative.
        fills: In the order they took place.
        equity: (open time of the candle, equity at its close), one per time of the grid.
        funding_paid: Sum; negative if received.
        fees: Sum.
        spread_cost: Sum.
        slippage_cost: Sum.
        impact_cost: Sum.
        blind_bars: Times a symbol with a position had no candle.
        ruined: Whether the run ended early, without equity.
    """

    cash: float
    units: dict[str, float]
    fills: list[Fill] = field(default_factory=list)
    equity: list[tuple[int, float]] = field(default_factory=list)
    funding_paid: float = 0.0
    fees: float = 0.0
    spread_cost: float = 0.0
    slippage_cost: float = 0.0
    impact_cost: float = 0.0
    blind_bars: int = 0
    ruined: bool = False


@dataclass(frozen=True)
class Order:
    """Target units, decided at the close of candle `decided_ts`, with that close as the maker's limit."""

    decided_ts: int
    target_units: float
    limit: float


@dataclass
class State:
    """What is known of one symbol besides its units."""

    # The candles before t; those of t join at the mark.
    seen: list[Bar] = field(default_factory=list)
    # The last decided weight and what it came to.
    weight: float = 0.0
    target_units: float = 0.0
    refused_in_a_row: int = 0
    # Orders that have not arrived, and the one that is pending with its unfilled units.
    under_way: list[Order] = field(default_factory=list)
    order: Order | None = None
    pending: float = 0.0
    # A maker order was dropped: the next decision places it again.
    dropped: bool = False


# One loop with every step in sight: here that is worth more than few branches.
def simulate(  # noqa: C901, PLR0912
    bars: dict[str, list[Bar]], funding: dict[str, list[tuple[int, float]]], settings: Settings
) -> Result:
    """Trade the candles.

    Args:
        bars: Candles by symbol, ascending, on one grid; gaps are allowed.
        funding: (time in ms UTC, rate as a fraction) by symbol, ascending; a long pays a positive rate.
        settings: The options.

    Returns:
        The account at the end.
    """
    symbols = sorted(bars)
    interval = settings.interval_ms
    result = Result(cash=settings.equity, units=dict.fromkeys(symbols, 0.0))
    states = {symbol: State() for symbol in symbols}
    candles = {symbol: {bar.ts: bar for bar in bars[symbol]} for symbol in symbols}
    last = {symbol: bars[symbol][-1].ts for symbol in symbols}

    for t in grid(bars, interval):
        # 1. Funding.
        for symbol in symbols:
            if settings.market == "perp" and states[symbol].seen:
                pay_funding(result, symbol, funding[symbol], t - interval, t, states[symbol].seen[-1].close)

        # 2. Fills of orders decided at an earlier close.
        for symbol in symbols:
            if t in candles[symbol]:
                fill_order(result, states[symbol], symbol, candles[symbol][t], settings)

        # The last bar is closed at its close, with costs.
        for symbol in symbols:
            if t == last[symbol]:
                close = candles[symbol][t].close
                if settings.market == "perp":
                    pay_funding(result, symbol, funding[symbol], t, t + interval, close)
                trade(result, states[symbol], symbol, settings, -result.units[symbol], close, t + interval, t, t)

        # 3. Mark.
        equity = result.cash
        for symbol in symbols:
            if t in candles[symbol]:
                states[symbol].seen.append(candles[symbol][t])
            elif result.units[symbol] != 0:
                result.blind_bars += 1
            if states[symbol].seen:
                equity += result.units[symbol] * states[symbol].seen[-1].close
        result.equity.append((t, equity))
        if settings.market == "perp" and equity <= 0:
            result.ruined = True
            break

        # 4. Decide.
        for symbol in symbols:
            if t in candles[symbol] and t != last[symbol]:
                share = max(equity, 0.0) / len(symbols)
                decide(states[symbol], symbol, candles[symbol][t], share, settings)
    return result


def grid(bars: dict[str, list[Bar]], interval: int) -> list[int]:
    """Return every open time from each symbol's first candle to its last one, sorted."""
    times = set()
    for candles in bars.values():
        times.update(range(candles[0].ts, candles[-1].ts + 1, interval))
    return sorted(times)


def pay_funding(
    result: Result, symbol: str, events: list[tuple[int, float]], after: int, until: int, price: float
) -> None:
    """Pay the events in (after, until] at a price."""
    for ts, rate in events:
        if after < ts <= until:
            paid = result.units[symbol] * price * rate
            result.cash -= paid
            result.funding_paid += paid


def fill_order(result: Result, state: State, symbol: str, bar: Bar, settings: Settings) -> None:
    """Let orders arrive, then fill what is pending at the open of a candle, or at the limit within it."""
    for order in list(state.under_way):
        if order.decided_ts + (1 + settings.delay_bars) * settings.interval_ms <= bar.ts:
            state.under_way.remove(order)
            state.order = order
            state.pending = order.target_units - result.units[symbol]
    if state.order is None or state.pending == 0:
        return

    side = math.copysign(1.0, state.pending)
    limit = state.order.limit
    if settings.fill == "maker":
        through = bar.low < limit * (1 - THROUGH) if side > 0 else bar.high > limit * (1 + THROUGH)
        if not through:
            state.pending = 0.0
            state.dropped = not state.under_way
            return

    quantity = state.pending
    if not math.isinf(settings.participation):
        most = settings.participation * bar.volume
        # Written so that NaN fills nothing.
        if not most > 0:
            return
        if abs(quantity) > most:
            quantity = side * most
    state.pending -= quantity
    if settings.fill == "maker":
        fee = abs(quantity) * limit * settings.maker_bps / 1e4
        fill = Fill(bar.ts, state.order.decided_ts, bar.ts, symbol, quantity, limit, limit, fee, 0.0, 0.0, 0.0)
        book(result, fill)
    else:
        trade(result, state, symbol, settings, quantity, bar.open, bar.ts, state.order.decided_ts, bar.ts)


def trade(
    result: Result,
    state: State,
    symbol: str,
    settings: Settings,
    quantity: float,
    reference: float,
    ts: int,
    decided_ts: int,
    candle_ts: int,
) -> None:
    """Buy or sell as a taker: half the spread, slippage, impact and the taker fee on top of a reference price."""
    if quantity == 0:
        return
    side = math.copysign(1.0, quantity)
    spread_bps = settings.spread_bps / 2
    impact_bps = find_impact_bps(state.seen, quantity, reference, settings)
    price = reference * (1 + side * (spread_bps + settings.slippage_bps + impact_bps) / 1e4)
    notional = abs(quantity) * reference
    fill = Fill(
        ts,
        decided_ts,
        candle_ts,
        symbol,
        quantity,
        reference,
        price,
        fee=abs(quantity) * price * settings.taker_bps / 1e4,
        spread=notional * spread_bps / 1e4,
        slippage=notional * settings.slippage_bps / 1e4,
        impact=notional * impact_bps / 1e4,
    )
    book(result, fill)


def book(result: Result, fill: Fill) -> None:
    """Change cash and units by a fill, and add up its costs."""
    result.cash -= fill.units * fill.price + fill.fee
    result.units[fill.symbol] += fill.units
    result.fees += fill.fee
    result.spread_cost += fill.spread
    result.slippage_cost += fill.slippage
    result.impact_cost += fill.impact
    result.fills.append(fill)


def find_impact_bps(seen: list[Bar], quantity: float, price: float, settings: Settings) -> float:
    """Return the square-root impact Y * sigma * sqrt(|q| * price / quote volume) in bps, from earlier candles only."""
    if settings.impact == 0:
        return 0.0
    first = max(0, len(seen) - max(1, DAY_MS // settings.interval_ms))
    variance = 0.0
    quote_volume = 0.0
    for i in range(first, len(seen)):
        before = seen[i - 1].close if i > 0 else seen[i].open
        variance += (seen[i].close / before - 1) ** 2
        if not math.isnan(seen[i].quote_volume):
            quote_volume += seen[i].quote_volume
    ratio = abs(quantity) * price / quote_volume if quote_volume > 0 else 1.0
    impact_bps = settings.impact * math.sqrt(variance) * math.sqrt(ratio) * 1e4
    return min(impact_bps, 1e4 - settings.spread_bps / 2 - settings.slippage_bps)


def decide(state: State, symbol: str, bar: Bar, share: float, settings: Settings) -> None:
    """Place an order at the close of a candle if its p changes the weight, or if a maker order was dropped.

    Args:
        state: The symbol's state.
        symbol: Its name.
        bar: The candle.
        share: The symbol's share of equity, quote currency: weight 1.
        settings: The options.
    """
    if bar.p is None:
        state.refused_in_a_row += 1
        if state.refused_in_a_row <= PATIENCE_BARS:
            return
        weight = 0.0
    elif math.isnan(bar.p):
        return
    else:
        state.refused_in_a_row = 0
        weight = find_weight(bar.p, state.weight, symbol, settings)

    if weight != state.weight:
        state.weight = weight
        state.target_units = weight * share / bar.close
    elif not state.dropped:
        return
    state.dropped = False
    state.under_way.append(Order(bar.ts, state.target_units, bar.close))


# Every policy in one place, one condition per line.
def find_weight(p: float, weight: float, symbol: str, settings: Settings) -> float:  # noqa: C901, PLR0911
    """Return the target weight of a policy, given the last decided one."""
    edge = (2 * p - 1) * settings.move[symbol]
    # The shorts of every policy end here.
    lowest = 0.0 if settings.side == "long" else -settings.max_weight
    highest = settings.max_weight

    if settings.policy == "sign":
        return sign_weight(p, lowest, highest)

    if settings.policy == "threshold":
        if p > settings.enter:
            return highest
        if p < 1 - settings.enter:
            return lowest
        return 0.0

    if settings.policy == "hysteresis":
        if p >= settings.enter and p > 0.5:
            return highest
        if p <= 1 - settings.enter and p < 0.5:
            return lowest
        if weight > 0 and p < 1 - settings.exit:
            return 0.0
        if weight < 0 and p > settings.exit:
            return 0.0
        return weight

    if settings.policy == "cost-aware":
        wanted = sign_weight(p, lowest, highest)
        change = wanted - weight
        gain = change * edge * settings.run_length[symbol] / settings.horizon
        cost = abs(change) * (settings.taker_bps + settings.spread_bps / 2 + settings.slippage_bps) / 1e4
        return wanted if gain > cost else weight

    if settings.policy == "kelly":
        if not settings.variance[symbol] > 0:
            return 0.0
        kelly = settings.kelly_fraction * edge / settings.variance[symbol]
        return min(max(kelly, lowest), highest)

    raise ValueError(settings.policy)


def sign_weight(p: float, lowest: float, highest: float) -> float:
    """Return the weight that follows sign(p - 0.5)."""
    if p > 0.5:
        return highest
    if p < 0.5:
        return lowest
    return 0.0


def random_market(seed: int) -> tuple[dict[str, list[Bar]], dict[str, list[tuple[int, float]]], Settings]:
    """Draw candles, funding and settings; each seed gives another kind of market.

    One to four symbols over 30 to 200 bars, with gaps, late starts, early ends, bars without volume, ties and refusals
    among the probabilities, prices from 1e-6 to 1e6, funding at odd times, and all policies, sides, fills and delays.

    Args:
        seed: Any integer.

    Returns:
        The arguments of `simulate`.
    """
    rng = random.Random(seed)  # noqa: S311 -- a failure must come back with its seed
    interval = rng.choice([60_000, 300_000, 3_600_000, DAY_MS, 7 * DAY_MS])
    start = 1_700_000_000_000 // interval * interval
    count = rng.randint(30, 200)
    symbols = rng.sample(["ADA", "BTC", "ETH", "SOL", "XRP"], rng.randint(1, 4))
    market = rng.choice(["perp", "perp", "spot"])
    equity = rng.choice([1.0, 10_000.0, 10_000_000.0])
    enter = rng.choice([0.5, 0.53, 0.53, 0.6])
    settings = Settings(
        interval_ms=interval,
        horizon=rng.choice([1, 1, 3, 12]),
        policy=rng.choice(["cost-aware", "threshold", "hysteresis", "sign", "kelly"]),
        enter=enter,
        exit=min(enter, rng.choice([0.48, 0.5, 0.505, 0.505])),
        kelly_fraction=rng.choice([0.01, 0.25, 1.0]),
        max_weight=rng.choice([0.3, 1.0, 1.0, 3.0, 20.0]),
        side="long" if market == "spot" else rng.choice(["long", "both", "both"]),
        market=market,
        taker_bps=rng.choice([0.0, 5.0, 10.0, 100.0]),
        maker_bps=rng.choice([0.0, 2.0]),
        spread_bps=rng.choice([0.0, 0.0, 3.0]),
        slippage_bps=rng.choice([0.0, 1.0, 20.0]),
        impact=rng.choice([0.0, 0.0, 0.5, 1.0, 50.0]),
        participation=rng.choice([math.inf, 0.01, 0.1, 0.1, 1.0]),
        fill=rng.choice(["next-open", "next-open", "maker"]),
        delay_bars=rng.choice([0, 0, 0, 1, 2, 5]),
        equity=equity,
        move={symbol: rng.choice([0.0, 3e-4, 3e-3, 0.03]) for symbol in symbols},
        variance={symbol: rng.choice([0.0, 1e-6, 1e-4, 1e-2]) for symbol in symbols},
        run_length={symbol: rng.choice([1.0, 2.5, 30.0]) for symbol in symbols},
    )
    bars = {}
    funding = {}
    for symbol in symbols:
        bars[symbol] = random_bars(rng, start, count, settings)
        times = sorted(start + rng.randrange(-2 * interval, (count + 2) * interval) for _ in range(rng.randint(0, 40)))
        if rng.random() < 0.5:
            # On the grid, as exchanges pay it; two events at one time are possible.
            times = [t // interval * interval for t in times]
        funding[symbol] = [(t, rng.choice([1e-4, -1e-4, 0.0, 0.01, rng.gauss(0, 1e-3)])) for t in times]
    return bars, funding, settings


def random_bars(rng: random.Random, start: int, count: int, settings: Settings) -> list[Bar]:
    """Draw the candles of one symbol.

    Args:
        rng: Where every number comes from.
        start: Open time of the grid's first candle, ms UTC.
        count: Candles of the grid; a symbol has at least one of them.
        settings: Thresholds and equity, to draw probabilities and volumes near them.
    """
    there = set(range(count))
    if rng.random() < 0.3:
        there -= set(range(rng.randint(1, count // 2)))
    if rng.random() < 0.3:
        there -= set(range(count - rng.randint(1, count // 2 - 1), count))
    for _ in range(rng.choice([0, 0, 1, 3, 10])):
        gap = rng.randrange(count)
        there -= set(range(gap, gap + rng.choice([1, 2, 5, 20])))
    if not there:
        there = {rng.randrange(count)}

    price = 10 ** rng.uniform(-6, 6)
    move = rng.choice([0.0, 1e-4, 1e-3, 0.01, 0.1])
    # From thinner than an order to far more than it needs.
    volume = settings.equity / price * 10 ** rng.uniform(-2, 4)
    empty = rng.choice([0.0, 0.0, 0.1, 0.5])
    special = [
        0.5, 0.5, settings.enter, 1 - settings.enter, settings.exit, 1 - settings.exit, 0.0, 1.0, math.nan, None, None
    ]  # fmt: skip
    specials = rng.choice([0.0, 0.1, 0.4])
    spread = rng.choice([0.01, 0.05, 0.2])
    stay = rng.choice([0.0, 0.5, 0.9])
    p: float | None = 0.5
    bars = []
    for i in range(count):
        # The open may jump away from the last close, sometimes very far.
        first = price * math.exp(rng.gauss(0, move / 2)) if rng.random() < 0.3 else price
        if rng.random() < 0.005:
            first *= rng.choice([0.4, 2.5])
        price = first * math.exp(rng.gauss(0, move))
        high = max(first, price) * (1 + abs(rng.gauss(0, move)))
        low = min(first, price) / (1 + abs(rng.gauss(0, move)))
        units = 0.0 if rng.random() < empty else volume * rng.lognormvariate(0, 1)
        quote = units * (first + price) / 2
        if rng.random() < 0.005:
            units = quote = math.nan
        if rng.random() >= stay:
            p = rng.choice(special) if rng.random() < specials else min(max(rng.gauss(0.5, spread), 0.0), 1.0)
        if i in there:
            bars.append(Bar(start + i * settings.interval_ms, first, high, low, price, units, quote, p))
    return bars
