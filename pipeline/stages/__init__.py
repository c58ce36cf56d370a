"""Bark's rules, one file a stage; stages never import each other."""
