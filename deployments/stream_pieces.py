"""The pieces of a streamed answer as its turn minds them: the first one's coming, and a flood's rests between them."""

from __future__ import annotations

import asyncio

from starlette.types import Message, Send

from deployments.turns import Turn


def in_pieces(send: Send, turn: Turn) -> Send:
    """Tell the turn of each piece, and wait as it says: what the engine has by then is one piece."""
    begun = False

    async def paced(message: Message) -> None:
        nonlocal begun
        await send(message)
        if not message.get("more_body"):
            return
        rest_s = turn.piece()
        if begun and rest_s:
            await asyncio.sleep(rest_s)
        begun = True  # the first token follows the role at once

    return paced
