"""Rows: sources and their offline mirror, splits, labels, overlaps, and transfer rows for the teacher to label."""
