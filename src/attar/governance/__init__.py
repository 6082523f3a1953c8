"""May a teacher be distilled, and what shaped a run."""
