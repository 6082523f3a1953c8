"""Training: a Trainer without maths around one module that knows student, teacher and objectives."""
