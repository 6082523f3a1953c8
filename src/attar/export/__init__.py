"""From a trained student to files that run without torch; a file that does not answer like the student is refused."""
