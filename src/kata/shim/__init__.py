"""The process that containerd starts."""
