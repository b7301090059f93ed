"""The pod's network: what CNI has prepared in its namespace, and how that reaches the guest."""
