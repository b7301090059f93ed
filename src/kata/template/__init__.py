"""Templates: machines booted once and saved, from which sandboxes are restored."""
