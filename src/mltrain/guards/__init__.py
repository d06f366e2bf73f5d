"""Leakage guards: each checks one way in which the future could reach a score, and returns its evidence.

- `future_info`: features and label depend on no candle and no symbol that they must not know.
- `time_split`: in the training arrays, every label of an earlier block ends before the next block begins.
- `feature_audit`: the columns are those of the registry, no single one predicts the label of any symbol implausibly
  well, and a model trained on shuffled labels scores like chance.

A guard does not raise on a leak: it returns a GuardResult, and `check_guards` turns failures into one LeakageError.
"""
