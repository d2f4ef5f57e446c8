"""The serving container of the tests: answers with its version, and drains as `solo.cd.services` asks for.

python server.py VERSION      prints its port; SIGTERM drains it
"""

import asyncio
import signal
import sys
import time

DRAIN = 0.4


class Server:
    def __init__(self, version):
        self.version, self.draining, self.connections = version, False, set()

    async def start(self):
        self.server = await asyncio.start_server(self.serve, "127.0.0.1", 0, backlog=512)
        self.port = self.server.sockets[0].getsockname()[1]
        return self

    async def serve(self, reader, writer):
        self.connections.add(writer)
        try:
            while await reader.readuntil(b"\r\n\r\n"):
                body = self.version.encode()
                keep = "close" if self.draining else "keep-alive"
                head = f"HTTP/1.1 200 OK\r\nContent-Length: {len(body)}\r\nConnection: {keep}\r\n\r\n"
                writer.write(head.encode() + body)
                await writer.drain()
                if self.draining:
                    break
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            self.connections.discard(writer)
            writer.close()

    async def drain(self):
        self.draining = True
        end = time.monotonic() + DRAIN
        while time.monotonic() < end:
            await asyncio.sleep(0.02)
        self.server.close()
        while self.connections:
            for writer in list(self.connections):
                writer.close()
            await asyncio.sleep(0.02)


async def main():
    server = await Server(sys.argv[1]).start()
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    print(server.port, flush=True)
    await stop.wait()
    await server.drain()


if __name__ == "__main__":
    asyncio.run(main())
