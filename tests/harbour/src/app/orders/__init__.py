"""Orders: what is to be loaded onto which ship."""
