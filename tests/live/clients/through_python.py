"""Signs in, creates an item and lists the items, with the generated client alone."""

import sys

from my_service_client import AuthenticatedClient, Client
from my_service_client.api.auth import login, register
from my_service_client.api.items import create_item, list_items
from my_service_client.models import ItemCreate, PasswordForm, Problem, Registration

ACCOUNT = "python@example.com", "correct horse battery"

client = Client(base_url=sys.argv[1])
register.sync(client=client, body=Registration(*ACCOUNT))
tokens = login.sync(client=client, body=PasswordForm(*ACCOUNT))
caller = AuthenticatedClient(base_url=sys.argv[1], token=tokens.access_token)
made = create_item.sync_detailed(client=caller, body=ItemCreate(name="Anchor"))
names = [item.name for item in list_items.sync(client=caller).items]
refused = list_items.sync(client=AuthenticatedClient(base_url=sys.argv[1], token="x"))
assert isinstance(refused, Problem)
sys.stdout.write(f"{made.status_code.value} {names[0]} {refused.code}\n")
