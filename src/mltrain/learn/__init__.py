"""The learning room: matrix -> split -> search -> booster -> calibrated probabilities -> metrics."""
