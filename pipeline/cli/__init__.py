"""The command line, one file a command; knows terminals, not tensors."""
