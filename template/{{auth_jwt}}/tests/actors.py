"""How a test becomes somebody."""

import httpx2

PASSWORD = "correct horse battery"
AUTH = "/api/v1/auth"


async def register(
    client: httpx2.AsyncClient, email: str, password: str = PASSWORD
) -> httpx2.Response:
    return await client.post(f"{AUTH}/register", json={"email": email, "password": password})


async def log_in(
    client: httpx2.AsyncClient, email: str, password: str = PASSWORD
) -> httpx2.Response:
    return await client.post(f"{AUTH}/login", data={"username": email, "password": password})


async def sign_in(client: httpx2.AsyncClient, email: str) -> dict[str, str]:
    """Make an account if there is none, log in, and return the headers that say so."""
    await register(client, email)
    answer = await log_in(client, email)
    answer.raise_for_status()
    return {"Authorization": f"Bearer {answer.json()['access_token']}"}
