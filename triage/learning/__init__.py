"""Where the network comes from, and how good it is."""
