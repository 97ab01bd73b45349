"""The course of a stage on TRL's trainers."""
