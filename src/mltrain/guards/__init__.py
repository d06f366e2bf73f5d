"""Leakage guards: each looks for one way in which the future could reach a score, and returns its evidence.

- `future_info`: no feature sees a later candle, more candles than it says, or a symbol that it does not name; a
  leader's candles are not shifted in time against those of the symbols that read it; the label sees only the candles up
  to its horizon.
- `time_split`: in the arrays handed to the learner, every label of an earlier block is over before the next begins.
- `feature_audit`: the columns are the registry's, no single one predicts the label of any symbol implausibly well, and
  a model trained on shuffled labels scores like chance.

A guard raises nothing on a leak: it returns a GuardResult, and `check_guards` turns failures into one LeakageError.
"""
