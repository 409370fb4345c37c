# Creates an item, reads it, and deletes it.
request POST /api/v1/items 201 '{"name": "Smoke test"}'
item=/api/v1/items/$(sed -n 's/.*"id":"\([0-9a-f-]*\)".*/\1/p' "$files/body")
undo="DELETE $item"
request GET "$item" 200
request DELETE "$item" 204
undo=
request GET "$item" 404
