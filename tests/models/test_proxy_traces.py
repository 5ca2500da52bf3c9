"""The context of a traced HTTP client: told to the supervisor, kept from the provider, and no reason to refuse."""

from pathlib import Path

import httpx2
import pytest
from proxy_stage import stage

pytestmark = pytest.mark.live
CONTEXT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


async def test_the_gate_hears_of_it_and_the_provider_does_not(tmp_path: Path):
    async with stage(tmp_path) as on, httpx2.AsyncClient(timeout=60) as http:
        for context in (CONTEXT, "\xe9" * 3000, ""):
            answer = await http.post(
                f"{on.address}/v1/chat/completions",
                headers={"authorization": f"Bearer {on.key('ann')}", "traceparent": context.encode("latin-1")},
                json={"model": "plain", "messages": [{"role": "user", "content": "hi"}]},
            )
            assert answer.status_code == 200
        told = [asked.trace for asked in on.gate.asked.values()]
        assert told == [CONTEXT, "\xe9" * 64, ""]
        assert [seen for seen in on.provider.posted() if "traceparent" in seen.headers] == []
