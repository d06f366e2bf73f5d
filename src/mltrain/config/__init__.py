"""The training configuration: train.yml to TrainConfig."""
