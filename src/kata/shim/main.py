"""The entry point of `containerd-shim-kata-v2`.

Imports nothing before it is needed: containerd runs `start` and `delete` for every container.
"""

import os
import sys

_USAGE = """\
usage: containerd-shim-kata-v2 -namespace NS -address SOCKET -id ID [-bundle DIR] start|delete
       containerd-shim-kata-v2 -info | -v

Started by containerd for the runtime io.containerd.kata.v2; not meant to be run by hand.
"""


def main() -> int:
    """Carry out what the command line asks for; return the exit code.

    Errors go to standard error in one sentence: containerd shows them to the user.
    """
    from kata.host import proc
    from kata.shim.arguments import ArgumentError, parse

    origin = proc.started_at(os.getpid())
    try:
        arguments = parse(sys.argv[1:])
    except ArgumentError as error:
        sys.stderr.write(f"containerd-shim-kata-v2: {error}\n")
        return 2
    try:
        if arguments.info:
            from kata.shim.info import info

            info()
        elif arguments.version:
            from kata import __version__

            sys.stdout.write(f"containerd-shim-kata-v2 {__version__}\n")
        elif arguments.action == "start":
            from kata.shim.start import start

            start(arguments, origin)
        elif arguments.action == "delete":
            from kata.shim.delete import delete

            delete(arguments)
        else:
            (sys.stdout if arguments.help else sys.stderr).write(_USAGE)
            return 0 if arguments.help else 2
    except (OSError, ValueError) as error:
        sys.stderr.write(f"containerd-shim-kata-v2: {arguments.action}: {error}\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
