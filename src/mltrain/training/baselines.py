"""Baselines: rules without a model, per symbol, and a model's skill over them on the same rows.

Three rules predict each row from the past alone: the side more frequent in training (majority), the last move's sign
(persistence), and its opposite (contrarian). The baseline of a symbol is the best of

- one half, a coin;
- the rule that was most accurate on the symbol's rows before the holdout;
- any rule whose accuracy on the holdout exceeds one half with its whole bootstrap interval.

The plain maximum of the three on the holdout would be biased upwards by 0.3 to 0.8 percentage points per symbol; the
rows before the holdout alone would miss a rule that has begun to work since.

The logistic baseline is a regression on five features, which a model of trees must also beat. It is fitted on the rows
before the holdout, by the solver of the calibrators: scikit-learn's use BLAS, whose last digits depend on the number of
threads, and a card's must not.
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

    from mltrain.training.bootstrap import Bootstrap, Estimate, Interval
    from mltrain.training.samples import Samples

Rule: TypeAlias = Literal["majority", "persistence", "contrarian"]
RULES: Final[tuple[Rule, ...]] = ("majority", "persistence", "contrarian")
COIN: Final = 0.5
# A symbol's base rate counts this many rows of the overall one too: that of few rows is noise.
PRIOR_ROWS: Final = 1_000
LOGISTIC_FEATURES: Final = 5
# The logistic regression is fitted on at most this many training rows, evenly spread: plenty for six weights.
LOGISTIC_ROWS: Final = 200_000
# Its features are clipped at this many standard deviations, so that one spike does not decide the fit.
_CLIP_DEVIATIONS: Final = 5.0


@dataclass(frozen=True, slots=True)
class SymbolPrior:
    """Base rate and best rule of one symbol on the rows before the holdout.

    Attributes:
        symbol: The symbol.
        up_share: Share of those rows that went up, in [0, 1], shrunk by PRIOR_ROWS rows of the overall share.
        rule: The most accurate rule on those rows; of equals, the first of RULES.
    """

    symbol: str
    up_share: float
    rule: Rule


@dataclass(frozen=True, slots=True)
class SymbolBaseline:
    """The baseline of one symbol on the holdout.

    Attributes:
        symbol: The symbol.
        rows: Number of its rows.
        rule: The rule that is the baseline; "coin" if no rule is right more than half of the time.
        accuracy: Accuracy of that rule on these rows, 0.5 to 1; 0.5 for the coin.
    """

    symbol: str
    rows: int
    rule: Rule | Literal["coin"]
    accuracy: float


@dataclass(frozen=True, slots=True)
class Baselines:
    """Scores of the rules without a model; accuracies are shares of the rows, 0 to 1.

    Attributes:
        train_up_share: Share of the training rows that went up.
        majority: Accuracy of the side more frequent in the symbol's training rows.
        persistence: Accuracy of the last move's sign; the majority if there was no move.
        contrarian: Accuracy of the opposite of the last move's sign; the majority if there was no move.
        accuracy: Accuracy of the symbols' baselines, weighted by rows; the model must beat it.
        base_rate_log_loss: Log loss of the symbols' training base rates, in nats.
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
    """A model compared with the baselines on the same rows and bootstrap draws.

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
        accuracy: Accuracy of the model on the symbol's rows, 0 to 1; None without rows.
        margin: Accuracy of the model minus that of the baseline, paired by row; None if the rows fill fewer than two
            bootstrap blocks.
        log_loss_skill: 1 - log loss of the model / log loss of the symbol's training base rate; None like `margin`.
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


def predict_by_rules(
    last_move: NDArray[np.int8], *, up_share: float | NDArray[np.float64]
) -> dict[Rule, NDArray[np.bool_]]:
    """Return the predictions of each rule, shape (n,), True for "up".

    Args:
        last_move: Sign of the price move that ended with each row's candle, shape (n,); 0 if there was none.
        up_share: Share of the training rows that went up, of all rows or of each row's symbol, shape (n,); above one
            half the majority is "up".
    """
    majority = np.full(last_move.size, up_share > THRESHOLD)
    return {
        "majority": majority,
        "persistence": np.where(last_move == 0, majority, last_move > 0),
        "contrarian": np.where(last_move == 0, majority, last_move < 0),
    }


def find_priors(samples: Samples, inner: slice) -> tuple[SymbolPrior, ...]:
    """Return base rate and best rule of each of `samples.symbols` on the rows before the holdout, `inner`.

    A symbol without such rows gets the overall base rate and the rule "majority".
    """
    y, last_move, symbol_ix = samples.y[inner], samples.last_move[inner], samples.symbol_ix[inner]
    priors, overall_up_share = [], float(y.mean())
    for ix, symbol in enumerate(samples.symbols):
        is_symbol = symbol_ix == ix
        symbol_y = y[is_symbol]
        up_share = (float(symbol_y.sum()) + PRIOR_ROWS * overall_up_share) / (symbol_y.size + PRIOR_ROWS)
        predicted = predict_by_rules(last_move[is_symbol], up_share=up_share)
        hits = {rule: int(np.count_nonzero(predicted[rule] == symbol_y)) for rule in RULES}
        priors.append(SymbolPrior(symbol, up_share, max(RULES, key=hits.__getitem__)))
    return tuple(priors)


def score_baselines(
    p: NDArray[np.float64], rows: Samples, priors: Sequence[SymbolPrior], *, train_up_share: float, bootstrap: Bootstrap
) -> tuple[Baselines, Skill]:
    """Score the rules without a model on the holdout, and the skill of a model over them.

    Args:
        p: The model's probabilities of "up", shape (n,), in [0, 1].
        rows: The n rows of the holdout.
        priors: Base rate and best rule of each of `rows.symbols` before the holdout, in their order.
        train_up_share: Share of all training rows that went up, in (0, 1).
        bootstrap: The bootstrap of these rows; each symbol's rows get one with its draws, level and seed.
    """
    if rows.y.size == 0 or not 0 < train_up_share < 1 or len(priors) != len(rows.symbols):
        msg = (
            f"need rows, a prior for each symbol and a share in (0, 1): {rows.y.size}, {len(priors)}, {train_up_share}"
        )
        raise ValueError(msg)
    y, model_loss = rows.y, row_log_loss(p, rows.y)
    base_rates = np.array([prior.up_share for prior in priors])[rows.symbol_ix]
    base_rate_loss = row_log_loss(base_rates, y)
    rule_hits = {rule: up == y for rule, up in predict_by_rules(rows.last_move, up_share=base_rates).items()}
    model_hits = (predict_up(p) == y).astype(np.float64)
    baseline_hits = np.full(y.size, COIN)
    skills = []
    for ix, prior in enumerate(priors):
        symbol_rows = np.flatnonzero(rows.symbol_ix == ix)
        if not symbol_rows.size:
            baseline = SymbolBaseline(prior.symbol, rows=0, rule="coin", accuracy=COIN)
            skills.append(SymbolSkill(baseline, accuracy=None, margin=None, log_loss_skill=None))
            continue
        ts_ms = rows.ts_ms[symbol_rows]
        symbol_bootstrap = None
        # Rows of one time fill one block, from which nothing can be drawn.
        if ts_ms[0] < ts_ms[-1]:
            symbol_bootstrap = plan_bootstrap(
                ts_ms,
                draws=bootstrap.draws,
                level=bootstrap.level,
                seed=bootstrap.seed,
                overlap_ms=bootstrap.overlap_ms,
            )
        symbol_hits = {rule: hits[symbol_rows] for rule, hits in rule_hits.items()}
        baseline, baseline_hits[symbol_rows] = _pick_baseline(prior, symbol_hits, symbol_bootstrap)
        margin = log_loss_skill = None
        if symbol_bootstrap is not None:
            margin = symbol_bootstrap.estimate(model_hits[symbol_rows] - baseline_hits[symbol_rows])
            log_loss_skill = symbol_bootstrap.estimate(
                (base_rate_loss - model_loss)[symbol_rows], base_rate_loss[symbol_rows]
            )
        skills.append(SymbolSkill(baseline, float(model_hits[symbol_rows].mean()), margin, log_loss_skill))
    baselines = Baselines(
        train_up_share=train_up_share,
        majority=float(rule_hits["majority"].mean()),
        persistence=float(rule_hits["persistence"].mean()),
        contrarian=float(rule_hits["contrarian"].mean()),
        accuracy=float(baseline_hits.mean()),
        base_rate_log_loss=float(base_rate_loss.mean()),
        symbols=tuple(skill.baseline for skill in skills),
    )
    return baselines, Skill(
        margin=bootstrap.estimate(model_hits - baseline_hits),
        log_loss_skill=bootstrap.estimate(base_rate_loss - model_loss, base_rate_loss),
        log_loss_gain=bootstrap.estimate(base_rate_loss - model_loss),
        symbols=tuple(skills),
    )


def _pick_baseline(
    prior: SymbolPrior, hits: dict[Rule, NDArray[np.bool_]], bootstrap: Bootstrap | None
) -> tuple[SymbolBaseline, NDArray[np.float64]]:
    """Return a symbol's baseline on the holdout and its hits, shape (n,): 1 if right, 0 if wrong, 0.5 for a coin.

    The baseline is the most accurate of the rule that was best before the holdout, the rules that surely beat a coin
    on it, and a coin.

    Args:
        prior: Names the rule that was best before the holdout.
        hits: Whether each rule is right at each of the symbol's rows, shape (n,).
        bootstrap: The bootstrap of these rows; None if they are too few for one.
    """
    proven = [] if bootstrap is None else [rule for rule in RULES if bootstrap.estimate(hits[rule]).low(JUDGED) > COIN]
    best = max((prior.rule, *proven), key=lambda rule: float(hits[rule].mean()))
    rows, accuracy = hits[best].size, float(hits[best].mean())
    if accuracy <= COIN:
        return SymbolBaseline(prior.symbol, rows, "coin", COIN), np.full(rows, COIN)
    return SymbolBaseline(prior.symbol, rows, best, accuracy), hits[best].astype(np.float64)


@dataclass(frozen=True, slots=True)
class LogisticScore:
    """The scores of the logistic regression on the holdout.

    Attributes:
        features: The features that it uses.
        accuracy: Share of rows whose predicted side is right.
        auc_roc: Area under the ROC curve.
        log_loss: Mean negative log probability of the outcome, in nats.
    """

    features: tuple[str, ...]
    accuracy: float
    auc_roc: float
    log_loss: float


def score_logistic(samples: Samples, *, train: slice, holdout: slice) -> tuple[LogisticScore, NDArray[np.float64]]:
    """Fit a logistic regression on the features most correlated with the label, and score it on the holdout.

    Args:
        samples: All rows.
        train: The rows on which features are chosen, scaled and weighted; both classes are among them.
        holdout: The n rows to score.

    Returns:
        The scores, and the probabilities of "up" of the holdout's rows, shape (n,), in (0, 1).
    """
    step = -(-(train.stop - train.start) // LOGISTIC_ROWS)
    train_x, train_y = samples.x[train][::step], samples.y[train][::step]
    columns = _find_most_correlated(train_x, train_y)
    chosen_x = train_x[:, columns]
    mean, deviation = chosen_x.mean(axis=0, dtype=np.float64), chosen_x.std(axis=0, dtype=np.float64)
    deviation[deviation == 0] = 1.0

    def make_regressors(x: NDArray[np.float32]) -> NDArray[np.float64]:
        scaled = np.clip((x[:, columns] - mean) / deviation, -_CLIP_DEVIATIONS, _CLIP_DEVIATIONS)
        return np.vstack([scaled.T, np.ones(len(x))])

    p = fit_logistic_regression(make_regressors(train_x), train_y)(make_regressors(samples.x[holdout]))
    y = samples.y[holdout]
    scores = LogisticScore(
        features=tuple(samples.names[i] for i in columns),
        accuracy=float(np.mean(predict_up(p) == y)),
        auc_roc=auc(p, y),
        log_loss=float(row_log_loss(p, y).mean()),
    )
    return scores, p


def _find_most_correlated(x: NDArray[np.float32], y: NDArray[np.uint8]) -> list[int]:
    """Return the LOGISTIC_FEATURES columns of x most correlated with the label, in column order."""
    centred_y = y - y.mean()
    correlation = np.zeros(x.shape[1])
    for i in range(x.shape[1]):
        column = x[:, i].astype(np.float64)
        deviation = column.std()
        # Not `@`: BLAS rounds differently for other thread counts, and a card must not.
        correlation[i] = abs(np.sum((column - column.mean()) * centred_y)) / deviation if deviation > 0 else 0.0
    return sorted(np.argsort(-correlation, kind="stable")[:LOGISTIC_FEATURES].tolist())
