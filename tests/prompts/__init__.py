"""The questions, answered in a pseudo-terminal."""
