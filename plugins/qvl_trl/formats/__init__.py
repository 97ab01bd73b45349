"""Data formats: rows on disk, on the hub or generated, as `Example`s."""
