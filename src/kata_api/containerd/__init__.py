"""Messages of containerd's services, generated from `proto/kata_api/containerd`."""
