/** @file Runs the built tests: all of them, or those whose path contains one of the arguments. */
import { spawnSync } from "node:child_process";
import { readdirSync } from "node:fs";
import { dirname, join, resolve } from "node:path";
import { fileURLToPath } from "node:url";

const dist = resolve(dirname(fileURLToPath(import.meta.url)), "..", "dist");
const filters = process.argv.slice(2);
const tests = readdirSync(dist, { recursive: true })
  .map((file) => String(file).replaceAll("\\", "/"))
  .filter((file) => file.endsWith(".test.js") && !file.startsWith("web/page/"))
  .filter((file) => filters.length === 0 || filters.some((filter) => file.includes(filter)))
  .sort();
if (tests.length === 0) {
  console.error(`no test's path contains ${filters.join(" or ")}: tests lie beside the code.`);
  process.exit(1);
}
const result = spawnSync(
  process.execPath,
  ["--test", "--test-reporter=spec", ...tests.map((file) => join(dist, file))],
  { cwd: dist, stdio: "inherit" },
);
process.exit(result.status ?? 1);
