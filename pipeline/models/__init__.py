"""Networks and weights: find, check and read checkpoints; the GPTs and the codec."""
