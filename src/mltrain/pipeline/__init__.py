"""The whole way, one room for each journey: train, predict, demo. Nothing here knows a terminal."""
