"""What a sandbox takes from the host, and where the host accounts for it."""
