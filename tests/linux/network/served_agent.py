"""An agent that serves on the descriptor of its first argument, in whatever namespace it is started.

The second argument is how many seconds it waits for an interface.
"""

import asyncio
import socket
import sys

from kata_agent import network
from kata_agent.sandbox import Sandbox
from kata_agent.service import AgentService
from kata_api import agent_service
from ttrpc.server import Server, bind


async def serve(connection: socket.socket) -> None:
    def load_module(name: str, parameters: str) -> None:
        print(f"load {name}{parameters}", file=sys.stderr)

    sandbox = Sandbox(load_module=load_module)
    server = Server(bind(agent_service.METHODS, AgentService(sandbox)))
    reader, writer = await asyncio.open_connection(sock=connection)
    await server.serve_connection(reader, writer)
    await server.close()
    sandbox.close()


if __name__ == "__main__":
    network.Network.__init__.__defaults__ = (float(sys.argv[2]),)
    asyncio.run(serve(socket.socket(fileno=int(sys.argv[1]))))
