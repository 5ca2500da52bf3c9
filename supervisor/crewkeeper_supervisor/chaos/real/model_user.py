"""Model user: an agent program that asks a model again and again, as an unmodified client of the provider would.

`python -m crewkeeper_supervisor.chaos.real.model_user CALLS EVERY-S` calls the address in OPENAI_BASE_URL, streamed and
whole in turn; what it is told to try again it tries again. What came of each call it says as progress.
"""

import os
import sys
from typing import Final

import anyio
import httpx2

import crewkeeper_bus as bus

MODEL: Final = "gpt-4o-mini"
MAX_TOKENS: Final = 40
TRIES: Final = 4
CALL_S: Final = 60.0
BEGIN_S: Final = 3600.0
_MAIN: Final = "main"
_OK: Final = 200


async def live(calls: int, every_s: float) -> None:
    """Join, call so often once the crew begins, and leave."""
    try:
        async with bus.connect() as crew:
            await crew.ready(BEGIN_S)
            async with crew.task(_MAIN):
                await _ask_on(crew, calls, every_s)
    except bus.Killed:
        return


async def _ask_on(crew: bus.Client, calls: int, every_s: float) -> None:
    async with httpx2.AsyncClient(
        base_url=os.environ["OPENAI_BASE_URL"], timeout=CALL_S, trust_env=False, headers=_key()
    ) as http:
        for number in range(calls):
            end = await _call(http, streamed=number % 2 == 1)
            await crew.progress(f"call {number + 1}: {end}")
            await anyio.sleep(every_s)


def _key() -> dict[str, str]:
    return {"authorization": f"Bearer {os.environ['OPENAI_API_KEY']}"}


async def _call(http: httpx2.AsyncClient, *, streamed: bool) -> str:
    """One call with its tries: `ok`, or the last error."""
    body = {"model": MODEL, "max_tokens": MAX_TOKENS, "messages": [{"role": "user", "content": "go on"}]}
    end = ""
    for number in range(TRIES):
        await anyio.sleep(0.2 * number)
        try:
            answer = await http.post("/chat/completions", json=body | ({"stream": True} if streamed else {}))
        except httpx2.HTTPError as error:
            end = f"broke off: {type(error).__name__}"
            continue
        if answer.status_code == _OK:
            if not streamed or "data: [DONE]" in answer.text:
                return "ok"
            end = "the stream broke off"
            continue
        end = str(answer.status_code)
        if answer.headers.get("x-should-retry") == "false":
            return end
    return end


if __name__ == "__main__":
    anyio.run(live, int(sys.argv[1]), float(sys.argv[2]))
