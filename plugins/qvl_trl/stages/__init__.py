"""The stages: what a job may ask for, and its schema. Importing them is cheap."""
