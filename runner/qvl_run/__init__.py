"""The core of qvl-run: job file to plan to run. Imports nothing heavy (no torch, transformers, trl, datasets)."""

__version__ = "0.1.0"
