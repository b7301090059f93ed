"""The guest agent: PID 1 of the VM, which starts containers and answers for them.

Everything in this package is carried into every guest and its imports are paid at every cold boot,
under emulation ten times over. It therefore uses the standard library, ``ttrpc``, ``rtnetlink`` and
the agent part of ``kata_api`` and nothing else (``tests/style`` enforces it), starts no threads (it
forks) and runs no helper programs.

From the wire down: ``main`` boots the guest and serves; ``service`` translates requests; ``sandbox``
holds the containers; ``container`` and ``process`` are one of each; ``launcher`` creates processes;
``init``, ``rootfs`` and ``program`` are what happens inside them; ``network`` is what they share;
``syscalls`` is the kernel.
"""

VERSION = "0.1.0"
