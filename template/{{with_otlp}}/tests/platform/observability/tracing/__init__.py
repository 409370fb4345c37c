"""Tests of traces, as a collector receives them."""
