"""Every way to ask a model for a bare number."""

from __future__ import annotations

from mltrain.errors import RefusedError


def outcome(call):
    """Return an answer, or the reason of its refusal."""
    try:
        return call()
    except RefusedError as err:
        return err.reason


def ways(model, candles, samples):
    """Return every way to get a bare number."""
    stream = model.stream()
    stream.warm_up(candles)
    x = samples.x[:3]
    newest = candles["BTCUSDT"].tail(1).to_dicts()[0]
    return {
        "predict_one": lambda: model.predict_one(x[0]),
        "predict_proba": lambda: model.predict_proba(x).tolist(),
        "predict": lambda: model.predict(x).tolist(),
        "score": lambda: [*model.score(x)[1]],
        "stream.predict": lambda: stream.predict("BTCUSDT"),
        "stream.push": lambda: stream.push("BTCUSDT", newest),
        "explain": lambda: [*model.explain(dict(zip(model.feature_names_in_, x.T, strict=True)))["p"]],
    }
