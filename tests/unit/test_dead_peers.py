"""The gateway's own connections to replicas: the kernel is told to end those whose other end is gone."""

from __future__ import annotations

import asyncio
import socket

import httpx

from app.dead_peers import transport

ANSWER = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok"


async def test_a_connection_asks_for_signs_of_life() -> None:
    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(ANSWER)
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    client = httpx.AsyncClient(transport=transport(httpx.Limits()), base_url=url)
    async with server, client, client.stream("GET", "/") as response:
        own: socket.socket = response.extensions["network_stream"].get_extra_info("socket")
        told = [own.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)]
        for name in ("TCP_KEEPIDLE", "TCP_KEEPINTVL", "TCP_KEEPCNT", "TCP_USER_TIMEOUT"):
            told.append(own.getsockopt(socket.IPPROTO_TCP, getattr(socket, name)))
        text = await response.aread()
    assert (told, text) == ([1, 5, 2, 3, 11_000], b"ok")
