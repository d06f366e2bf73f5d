"""The files of a model, and what a model means to its callers."""

from typing import Final

MODEL_FILE: Final = "lgbm.pkl"
#: The files of a Temporal Fusion Transformer.
NETWORK_FILE: Final = "tft.json"
WEIGHTS_FILE: Final = "tft.safetensors"
#: Each version has one of these.
MODEL_FILES: Final = (MODEL_FILE, NETWORK_FILE)
