"""What runs proxy and workers somewhere, and what watches them: a folder for each place."""
