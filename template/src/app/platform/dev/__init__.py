"""What only a developer's machine and the tests need: servers without Docker, and `app dev`."""
