"""Continuous batching of token sequences; knows nothing of text, voices or sound."""
