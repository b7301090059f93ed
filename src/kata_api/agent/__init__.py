"""Messages of the agent protocol, generated from `proto/kata_api/agent`."""
