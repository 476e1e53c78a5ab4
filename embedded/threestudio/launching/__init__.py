"""What the launcher is made of: command line, extensions, checkpoints, stopping, cost."""
