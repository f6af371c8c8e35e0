"""Training: the loop, learning-rate schedules, distributed sessions and checkpoints."""
