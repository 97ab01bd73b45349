"""The job file: from text to a checked job, or to every finding with its place. Pure."""
