"""What whoever looks after the daemon asks and does: each command works beside a running daemon and without one."""
