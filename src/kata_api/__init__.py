"""The contract of the project: protobuf messages, service tables and OCI types, without behaviour."""
