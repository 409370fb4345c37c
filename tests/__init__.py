"""The tests of the generator: rules, renders, prompts, suites, and (in live) running services."""
