"""Rules that the template keeps, each by reading its files: seconds."""
