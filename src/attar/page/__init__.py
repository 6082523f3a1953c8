"""The browser page: what it is told of runs, the teacher beside the student, and a copy for any host."""
