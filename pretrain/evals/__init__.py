"""The transfer harness: evaluators, and the program `python -m pretrain.evals`."""
