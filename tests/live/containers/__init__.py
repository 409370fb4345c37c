"""What the container tests need from the machine: an engine, its plugins, and base images."""
