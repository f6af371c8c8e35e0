"""The command line: `train.py`, and a verb for each question that is put to a run."""
