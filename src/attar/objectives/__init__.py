"""Losses: pure row functions, and the one reduction that makes a weighted sum of them."""
