// Signs in, creates an item and lists the items, by the types of the document alone.
import createClient from "openapi-fetch";
import type { paths } from "./schema.d.ts";

declare const process: { argv: string[] };
const api = createClient<paths>({ baseUrl: process.argv[2] });
const account = { email: "typescript@example.com", password: "correct horse battery" };
await api.POST("/api/v1/auth/register", { body: account });
const login = await api.POST("/api/v1/auth/login", {
  // `grant_type`, `description` and `parts` have defaults, and so are optional.
  body: { username: account.email, password: account.password },
  bodySerializer: (body) => new URLSearchParams(body as Record<string, string>),
  headers: { "Content-Type": "application/x-www-form-urlencoded" },
});
if (login.error) throw new Error(login.error.code);
const headers = { Authorization: `Bearer ${login.data.access_token}` };
const made = await api.POST("/api/v1/items", { body: { name: "Anchor" }, headers });
if (made.error) throw new Error(made.error.code);
const page = await api.GET("/api/v1/items", { headers });
const names: string[] = page.data?.items.map((item) => item.name) ?? [];
const refused = await api.GET("/api/v1/items");
console.log(made.response.status, names.join(), refused.error?.code);
// @ts-expect-error: a field that the document does not have
export const wrong: string = made.data.colour;
