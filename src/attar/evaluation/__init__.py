"""Quality on held-out rows: metrics, paired intervals, calibration, and where the student differs from the teacher."""
