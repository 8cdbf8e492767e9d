"""A morning in a hospital that does not exist: `triage demo`."""
