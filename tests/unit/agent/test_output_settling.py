"""A reader that waits while an ended process's output is taken aside."""

import asyncio
import os

import pytest

from kata_agent.streams import Output

pytestmark = pytest.mark.unit


async def test_settling_wakes_a_waiting_reader_while_the_pipe_stays_open() -> None:
    reader, writer = os.pipe()
    output = Output(reader)
    reading = asyncio.create_task(output.read(10))
    await asyncio.sleep(0)
    os.write(writer, b"x")
    output.settle()
    assert await asyncio.wait_for(reading, 5) == b"x"
    output.close()
    os.close(writer)


async def test_the_total_of_an_ended_process_counts_all_it_wrote() -> None:
    reader, writer = os.pipe()
    output = Output(reader)
    os.write(writer, b"abcde")
    assert await output.read(2) == b"ab"
    assert output.total is None
    output.settle()
    os.write(writer, b"of a child")
    assert output.total == 5
    assert await output.read(10) == b"cde"
    assert await output.read(20) == b"of a child"
    assert output.total == 5
    output.close()
    os.close(writer)


async def test_the_total_of_a_terminal_counts_what_the_kernel_still_passes_on() -> None:
    for _ in range(100):
        master, slave = os.openpty()
        output = Output(master)
        os.write(slave, b"x" * 3000)
        output.settle()
        assert output.total == 3000
        os.close(slave)
        output.close()
