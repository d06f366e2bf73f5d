"""The model file `lgbm.pkl`: the bundle, its pickle, the check of its LightGBM text, and its contract."""

from typing import Final

MODEL_FILE: Final = "lgbm.pkl"
