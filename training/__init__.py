"""Training of the models that are ours; never imported by what runs."""
