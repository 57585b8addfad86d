"""Configuration, rollouts, the training loop, its logs and the evaluation."""
