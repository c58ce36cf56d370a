"""nano: a small Bark, trained from a synthetic teacher; `make nano` runs all of it.

words ▸ clips (teacher) ▸ tokens ▸ {codec, semantic, coarse, fine} ▸ export ▸ evaluation
"""
