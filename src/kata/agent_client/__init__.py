"""The guest's agent as the host sees it: how to dial it, its calls with types, its streams."""
