"""The measuring engine: separate processes, interleaved repeats, medians, ratios; and sizes that need no clock."""
