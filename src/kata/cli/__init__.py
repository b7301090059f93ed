"""The commands: the only code on the host that reads arguments, prints and exits."""
