"""What users start, as they start it."""
