"""Development and tests only: servers without Docker, and `app dev`."""
