"""Teachers: models on this machine, models fitted on the user's data, and stores of signals."""
