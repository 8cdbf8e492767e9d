"""What runs: sockets, files, processes, the environment and the clock."""
