"""Checkpoints that survive the machine: manifests, the store, and which folder to go on from."""
