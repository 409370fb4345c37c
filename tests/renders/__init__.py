"""What comes out, for many answers: parsed, linted and type-checked, but not run."""
