"""A stage whose plugin cannot be imported."""

import there_is_no_such_package  # noqa: F401
