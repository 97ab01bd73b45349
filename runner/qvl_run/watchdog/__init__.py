"""The watchdog of an attempt: what the parent sees of its child, how it judges that, what it collects before a kill."""
