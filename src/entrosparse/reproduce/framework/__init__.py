"""What an experiment is, how it is run, kept and shown."""
