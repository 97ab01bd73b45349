"""A soak: whole runs under faults that a seed draws, whose results must equal those of an undisturbed run."""
