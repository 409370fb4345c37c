"""How a test becomes somebody."""

import httpx2

PASSWORD = "correct horse battery"


async def sign_in(client: httpx2.AsyncClient, email: str) -> dict[str, str]:
    """Make an account, log in, and return the headers that say so."""
    await client.post("/api/v1/auth/register", json={"email": email, "password": PASSWORD})
    form = {"username": email, "password": PASSWORD}
    answer = await client.post("/api/v1/auth/login", data=form)
    answer.raise_for_status()
    return {"Authorization": f"Bearer {answer.json()['access_token']}"}
