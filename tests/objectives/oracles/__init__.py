"""The objectives once more, in numpy and scipy, float64, from the formulas alone; no code is shared with attar."""
