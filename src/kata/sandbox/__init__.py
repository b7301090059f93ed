"""The domain: a sandbox, its containers and their processes."""
