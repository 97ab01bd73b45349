"""A stage for tests that need a GPU."""
