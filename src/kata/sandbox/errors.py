"""What can go wrong, by who has to act.

    SandboxError
    ├── InvalidRequestError    the caller: change the request
    ├── NotFoundError          the caller: no such container or process
    ├── AlreadyExistsError     the caller: the name is taken
    ├── StateError             the caller: not now
    ├── UnimplementedError     the caller: never, with this version
    ├── HookError              the operator: a program that config.json names
    ├── StartError             the operator: host, configuration or guest image
    └── GuestGoneError         nobody: the virtual machine has ended

Texts name cause and remedy; they are what `ctr` and `kubectl describe` show.
"""


class SandboxError(Exception):
    """The base of all failures that the domain expects."""


class InvalidRequestError(SandboxError):
    """The request cannot be carried out as it is written."""


class NotFoundError(SandboxError):
    """There is no such container or process."""


class AlreadyExistsError(SandboxError):
    """A container or process of this name is there already."""


class StateError(SandboxError):
    """The container or process is not in a state that allows this."""


class UnimplementedError(SandboxError):
    """What is asked cannot be done by this version."""


class HookError(SandboxError):
    """A hook of the container did not succeed."""


class StartError(SandboxError):
    """The sandbox cannot be started on this host, with this configuration or guest image."""


class GuestGoneError(SandboxError):
    """The virtual machine has ended; every process in it counts as lost."""
