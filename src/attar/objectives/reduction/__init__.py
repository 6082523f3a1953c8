"""Rows and batches become a loss here, and only here: masks, temperature, weights, chunks, finiteness, denominators."""
