"""What to do when an attempt has died: which class of failure it was, which rule holds, what is left to spend. Pure."""
