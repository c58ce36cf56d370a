"""Measurements for `bark-serve bench`: ours beside transformers, on equal weights, one machine."""
