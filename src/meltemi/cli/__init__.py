"""The `meltemi` command: finds the running mesh by its data directory and talks to it."""
