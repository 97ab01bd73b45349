"""An example of a third-party plugin for qvl-run."""
