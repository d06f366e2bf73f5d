"""`lgbm.pkl`: the model bundle and the check of its LightGBM text."""

from typing import Final

MODEL_FILE: Final = "lgbm.pkl"
