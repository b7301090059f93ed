"""QEMU: devices as values, the command line they make, and the running process."""
