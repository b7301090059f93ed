"""What the guest sees of the host's files."""
