"""The pipelines of a generated service: valid, linted, and doing with an image what they say."""
