"""Containers on a terminal: size, keys, and exec beside the first process."""

import pytest
from lab.command import LabError
from lab.terminal import CTRL_C, CTRL_D, Terminal
from lab.trial import Trial

pytestmark = pytest.mark.containerd

ANSWER_S = 60.0
ATTEMPTS = 10
# What is typed is echoed: arithmetic tells the echo and the output apart.
WAIT_FOR_SIZE = (
    b"until [ \"$(stty size)\" = '40 100' ]; do usleep 20000; done; echo size-$((6*7))\n"
)
SLEEP = b"sh -c 'echo asleep-$((6*7)); exec sleep 100000'\n"


def resize_until_seen(terminal: Terminal) -> None:
    """Resize, as often as it takes: ctr listens for it only some time after the prompt is there."""
    terminal.send(WAIT_FOR_SIZE)
    for attempt in range(ATTEMPTS):
        terminal.resize(30, 90)
        terminal.resize(40, 100)
        try:
            terminal.wait_for("size-42", ANSWER_S / ATTEMPTS)
        except LabError:
            if attempt == ATTEMPTS - 1:
                raise
        else:
            return


def test_a_terminal_has_a_size_and_takes_ctrl_c(trial: Trial) -> None:
    argv = trial.run_argv(trial.new_id("tty"), "sh", options=("--rm", "--tty"))
    with trial.terminal(argv) as terminal:
        terminal.wait_for("# ", trial.runtime.patience_s)
        resize_until_seen(terminal)
        terminal.send(SLEEP)
        terminal.wait_for("asleep-42", ANSWER_S)
        terminal.send(CTRL_C)
        terminal.send(b"echo code-$?\n")
        terminal.wait_for("code-130", ANSWER_S)
        terminal.send(b"exit 7\n")
        assert terminal.wait_for_end(ANSWER_S) == 7


def test_ctrl_d_ends_a_shell(trial: Trial) -> None:
    argv = trial.run_argv(trial.new_id("tty"), "sh", options=("--rm", "--tty"))
    with trial.terminal(argv) as terminal:
        terminal.wait_for("# ", trial.runtime.patience_s)
        terminal.send(CTRL_D)
        assert terminal.wait_for_end(ANSWER_S) == 0


def test_exec_on_a_terminal_has_its_own(trial: Trial) -> None:
    with trial.background() as container:
        argv = trial.exec_argv(container, "shell", "sh", tty=True)
        with trial.terminal(argv) as terminal:
            terminal.wait_for("# ", ANSWER_S)
            terminal.send(b"test -t 0 && echo terminal-$((6*7))\n")
            terminal.wait_for("terminal-42", ANSWER_S)
            resize_until_seen(terminal)
            terminal.send(b"exit 3\n")
            assert terminal.wait_for_end(ANSWER_S) == 3
        assert trial.status(container) == "RUNNING"
