"""Baselines: rules without a model, per symbol, and a model's skill over them on the same rows.

Pure. Three rules predict each row from the past alone: the side more frequent in training (majority), the last move's
sign (persistence), and its opposite (contrarian). The baseline of a symbol is the best of

- one half, a coin;
- the rule that was most accurate on the symbol's rows before the holdout;
- any rule whose accuracy on the holdout exceeds one half with its whole bootstrap interval.

The plain maximum of the three on the holdout would be biased upwards by 0.3 to 0.8 percentage points per symbol; the
rows before the holdout alone would miss a rule that has begun to work since.

The logistic baseline is a regression on five features, which a model of trees must also beat. Its features are chosen,
scaled and weighted on the rows before the holdout. The fit is that of the calibrators: scikit-learn's solvers use BLAS,
whose last digits depend on the number of threads, and a card's must not.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Literal, TypeAlias

import numpy as np

from mltrain.training.bootstrap import JUDGED, plan_bootstrap
from mltrain.training.calibration import fit_logistic_regression
from mltrain.training.metrics import THRESHOLD, auc, predict_up, row_log_loss

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from mltrain.config.train_config import BootstrapConfig
    from mltrain.training.bootstrap import Bootstrap, Estimate, Interval
    from mltrain.training.samples import Samples

Rule: TypeAlias = Literal["majority", "persistence", "contrarian"]
RULES: Final[tuple[Rule, ...]] = ("majority", "persistence", "contrarian")
COIN: Final = 0.5
# Rows of the overall base rate that are added to each symbol's, which is noise if the symbol has few rows.
PRIOR_ROWS: Final = 1_000
# Features of the logistic regression.
LOGISTIC_FEATURES: Final = 5
# Training rows at most, evenly spread: plenty for six weights.
LOGISTIC_ROWS: Final = 200_000
# Values are clipped at this many standard deviations, so that one spike does not decide the fit.
_CLIP_DEVIATIONS: Final = 5.0


@dataclass(frozen=True, slots=True)
class SymbolPrior:
    """Base rate and best rule of one symbol on the rows before the holdout.

    Attributes:
        symbol: The symbol.
        up_share: Share of those rows that went up, shrunk by PRIOR_ROWS rows of the overall share.
        rule: The most accurate rule on them; of equals, the first of RULES.
    """

    symbol: str
    up_share: float
    rule: Rule


@dataclass(frozen=True, slots=True)
class SymbolBaseline:
    """The baseline of one symbol on the holdout.

    Attributes:
        symbol: The symbol.
        rows: Its rows.
        rule: The rule that is the baseline; "coin" if no rule is better than one half.
        accuracy: Accuracy of that rule on these rows; 0.5 for the coin.
    """

    symbol: str
    rows: int
    rule: Rule | Literal["coin"]
    accuracy: float


@dataclass(frozen=True, slots=True)
class Baselines:
    """Scores of the rules without a model.

    Attributes:
        train_up_share: Share of the training rows that went up.
        majority: Accuracy of the side more frequent in the symbol's training rows.
        persistence: Accuracy of the last move's sign; the majority if there was no move.
        contrarian: Accuracy of the opposite of the last move's sign; the majority if there was no move.
        accuracy: Accuracy of the symbols' baselines, weighted by rows; the model must beat it.
        base_rate_log_loss: Log loss of the symbols' base rates, in nats.
        symbols: The baseline of each symbol.
    """

    train_up_share: float
    majority: float
    persistence: float
    contrarian: float
    accuracy: float
    base_rate_log_loss: float
    symbols: tuple[SymbolBaseline, ...]


@dataclass(frozen=True, slots=True)
class Comparison:
    """A model compared with the baselines on the same rows and draws.

    Attributes:
        accuracy_margin: Accuracy of the model minus that of the symbols' baselines, as a share of the rows.
        log_loss_skill: 1 - log loss of the model / log loss of the symbols' training base rates.
    """

    accuracy_margin: Interval
    log_loss_skill: Interval


@dataclass(frozen=True, slots=True)
class SymbolSkill:
    """The skill of the model on one symbol alone.

    Attributes:
        baseline: The symbol's baseline.
        accuracy: Accuracy of the model on the symbol's rows; None without rows.
        margin: That minus the accuracy of the baseline, paired by row; None if the rows fill fewer than two blocks.
        log_loss_skill: 1 - log loss of the model / log loss of the symbol's training base rate; None in the same case.
    """

    baseline: SymbolBaseline
    accuracy: float | None
    margin: Estimate | None
    log_loss_skill: Estimate | None


@dataclass(frozen=True, slots=True)
class Skill:
    """The skill of a model over the baselines.

    Attributes:
        margin: Accuracy of the model minus that of the baseline, paired by row, as a share.
        log_loss_skill: 1 - log loss of the model / log loss of the symbols' training base rates.
        log_loss_gain: Log loss of those base rates minus that of the model, in nats.
        symbols: The skill on each symbol.
    """

    margin: Estimate
    log_loss_skill: Estimate
    log_loss_gain: Estimate
    symbols: tuple[SymbolSkill, ...]


def rule_calls(last_move: NDArray[np.int8], *, up_share: float) -> dict[Rule, NDArray[np.bool_]]:
    """Return the prediction of each rule for each row: True for "up".

    Args:
        last_move: Sign of the move that ended with each row's candle, shape (n,); 0 if there was none.
        up_share: Share of the training rows that went up; above one half the majority is "up".
    """
    majority = np.full(last_move.size, up_share > THRESHOLD)
    return {
        "majority": majority,
        "persistence": np.where(last_move == 0, majority, last_move > 0),
        "contrarian": np.where(last_move == 0, majority, last_move < 0),
    }


def find_priors(samples: Samples, inner: slice) -> tuple[SymbolPrior, ...]:
    """Return base rate and best rule of each symbol, in the order of the samples' symbols.

    A symbol without rows before the holdout gets the overall base rate and the rule "majority".

    Args:
        samples: All rows.
        inner: The rows before the holdout.
    """
    y, last_move, symbol_ix = samples.y[inner], samples.last_move[inner], samples.symbol_ix[inner]
    priors, overall = [], float(y.mean())
    for ix, symbol in enumerate(samples.symbols):
        rows = symbol_ix == ix
        up_share = (float(y[rows].sum()) + PRIOR_ROWS * overall) / (np.count_nonzero(rows) + PRIOR_ROWS)
        calls = rule_calls(last_move[rows], up_share=up_share)
        right = {rule: int(np.count_nonzero(calls[rule] == y[rows])) for rule in RULES}
        priors.append(SymbolPrior(symbol, up_share, max(RULES, key=lambda rule: right[rule])))
    return tuple(priors)


def score_baselines(
    p: NDArray[np.float64],
    rows: Samples,
    priors: Sequence[SymbolPrior],
    *,
    train_up_share: float,
    draws: Bootstrap,
    bootstrap: BootstrapConfig,
    seed: int,
) -> tuple[Baselines, Skill]:
    """Score the baselines, and a model against them.

    Args:
        p: Probabilities of the model, shape (n,).
        rows: The holdout's rows, n of them.
        priors: The prior of each of the rows' symbols, in their order.
        train_up_share: Share of all training rows that went up.
        draws: The bootstrap of these rows.
        bootstrap: Draws and level of the bootstrap of single symbols.
        seed: Random seed of the latter.

    Raises:
        ValueError: No rows, a missing prior, or a share that is not strictly between 0 and 1.
    """
    if rows.y.size == 0 or not 0 < train_up_share < 1 or len(priors) != len(rows.symbols):
        msg = (
            f"need rows, a prior for each symbol and a share in (0, 1): {rows.y.size}, {len(priors)}, {train_up_share}"
        )
        raise ValueError(msg)
    y, loss = rows.y, row_log_loss(p, rows.y)
    base_loss = row_log_loss(np.array([prior.up_share for prior in priors])[rows.symbol_ix], y)
    right = (predict_up(p) == y).astype(np.float64)
    # 1 where the baseline is right, 0 where it is wrong; one half for a coin.
    baseline = np.full(y.size, COIN)
    hits = {rule: np.zeros(y.size, np.bool_) for rule in RULES}
    symbols = []
    for ix, prior in enumerate(priors):
        symbol_rows = np.flatnonzero(rows.symbol_ix == ix)
        if not symbol_rows.size:
            symbols.append(SymbolSkill(SymbolBaseline(prior.symbol, 0, "coin", COIN), None, None, None))
            continue
        calls = rule_calls(rows.last_move[symbol_rows], up_share=prior.up_share)
        for rule in RULES:
            hits[rule][symbol_rows] = calls[rule] == y[symbol_rows]
        ts_ms = rows.ts_ms[symbol_rows]
        symbol_draws = None
        # Rows of one time fill one block, from which nothing can be drawn.
        if ts_ms[0] < ts_ms[-1]:
            symbol_draws = plan_bootstrap(ts_ms, draws=bootstrap.draws, level=bootstrap.level, seed=seed)
        symbol_baseline, baseline[symbol_rows] = _pick_baseline(
            prior, {r: hits[r][symbol_rows] for r in RULES}, symbol_draws
        )
        margin = log_loss_skill = None
        if symbol_draws is not None:
            margin = symbol_draws.estimate(right[symbol_rows] - baseline[symbol_rows])
            log_loss_skill = symbol_draws.estimate((base_loss - loss)[symbol_rows], base_loss[symbol_rows])
        symbols.append(SymbolSkill(symbol_baseline, float(right[symbol_rows].mean()), margin, log_loss_skill))
    baselines = Baselines(
        train_up_share=train_up_share,
        majority=float(hits["majority"].mean()),
        persistence=float(hits["persistence"].mean()),
        contrarian=float(hits["contrarian"].mean()),
        accuracy=float(baseline.mean()),
        base_rate_log_loss=float(base_loss.mean()),
        symbols=tuple(skill.baseline for skill in symbols),
    )
    return baselines, Skill(
        margin=draws.estimate(right - baseline),
        log_loss_skill=draws.estimate(base_loss - loss, base_loss),
        log_loss_gain=draws.estimate(base_loss - loss),
        symbols=tuple(symbols),
    )


def _pick_baseline(
    prior: SymbolPrior, hits: dict[Rule, NDArray[np.bool_]], draws: Bootstrap | None
) -> tuple[SymbolBaseline, NDArray[np.float64]]:
    """Return a symbol's baseline, and whether it is right at each of its rows (1, 0; one half for a coin)."""
    proven = [] if draws is None else [r for r in RULES if draws.estimate(hits[r]).low(JUDGED) > COIN]
    rule = max((prior.rule, *proven), key=lambda r: float(hits[r].mean()))
    rows, accuracy = hits[rule].size, float(hits[rule].mean())
    if accuracy <= COIN:
        return SymbolBaseline(prior.symbol, rows, "coin", COIN), np.full(rows, COIN)
    return SymbolBaseline(prior.symbol, rows, rule, accuracy), hits[rule].astype(np.float64)


@dataclass(frozen=True, slots=True)
class LogisticScore:
    """The scores of the logistic regression on the holdout.

    Attributes:
        features: Its features: those most correlated with the label on the training rows.
        accuracy: Share of rows whose predicted side is right.
        auc_roc: Area under the ROC curve.
        log_loss: In nats.
    """

    features: tuple[str, ...]
    accuracy: float
    auc_roc: float
    log_loss: float


def score_logistic(samples: Samples, *, train: slice, holdout: slice) -> tuple[LogisticScore, NDArray[np.float64]]:
    """Fit on the training rows and score the holdout.

    Args:
        samples: All rows.
        train: Rows to choose, scale and fit on; they hold both classes.
        holdout: Rows to score.

    Returns:
        The scores, and the probabilities of the holdout's rows.
    """
    step = -(-(train.stop - train.start) // LOGISTIC_ROWS)
    x, y = samples.x[train][::step], samples.y[train][::step]
    chosen = _most_correlated(x, y)
    mean, spread = x[:, chosen].mean(axis=0, dtype=np.float64), x[:, chosen].std(axis=0, dtype=np.float64)
    spread[spread == 0] = 1.0

    def terms(rows: NDArray[np.float32]) -> NDArray[np.float64]:
        scaled = np.clip((rows[:, chosen] - mean) / spread, -_CLIP_DEVIATIONS, _CLIP_DEVIATIONS)
        return np.vstack([scaled.T, np.ones(len(rows))])

    p = fit_logistic_regression(terms(x), y)(terms(samples.x[holdout]))
    y = samples.y[holdout]
    scores = LogisticScore(
        features=tuple(samples.names[i] for i in chosen),
        accuracy=float(np.mean(predict_up(p) == y)),
        auc_roc=auc(p, y),
        log_loss=float(row_log_loss(p, y).mean()),
    )
    return scores, p


def _most_correlated(x: NDArray[np.float32], y: NDArray[np.uint8]) -> list[int]:
    """Return the columns most correlated with the label, in column order."""
    centred_y = y - y.mean()
    correlation = np.zeros(x.shape[1])
    for i in range(x.shape[1]):
        column = x[:, i].astype(np.float64)
        spread = column.std()
        # Not `@`: BLAS rounds differently for other thread counts, and a card must not.
        correlation[i] = abs(np.sum((column - column.mean()) * centred_y)) / spread if spread > 0 else 0.0
    return sorted(np.argsort(-correlation, kind="stable")[:LOGISTIC_FEATURES].tolist())
