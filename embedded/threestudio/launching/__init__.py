"""What the launcher is made of: command line, extensions, log, trainer."""
