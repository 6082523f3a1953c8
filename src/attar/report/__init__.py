"""What people read of a run: the report, the model card, comparisons; and the upload to the Hub."""
