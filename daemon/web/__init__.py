"""The worklist for browsers and programs."""
