"""A plugin for tests: a stage that counts, and misbehaves as it is told."""
