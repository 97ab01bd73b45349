"""Doing it: attempts in processes of their own, watched, mirrored, and tried again."""
