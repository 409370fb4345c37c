"""Generated services, installed, and their own tests run on real Postgres and Valkey."""
