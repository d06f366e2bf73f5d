"""One module per journey: train, evaluate, predict, watch, demo. Nothing here knows a terminal."""
