/**
 * @file Runs the large benchmarks (`*.bench.js` in `dist`, `peers/*.bench.js`) of the rooms named,
 * or of all. Peers are installed on demand into `peers/node_modules`, install scripts ignored.
 */
import { spawnSync } from "node:child_process";
import { existsSync, readdirSync } from "node:fs";
import { dirname, join, resolve } from "node:path";
import { fileURLToPath } from "node:url";

const root = resolve(dirname(fileURLToPath(import.meta.url)), "..");
process.chdir(root);
const rooms = process.argv.slice(2).filter((argument) => !argument.startsWith("-"));
const flags = process.argv.slice(2).filter((argument) => argument.startsWith("-"));
const benches = readdirSync("dist", { recursive: true })
  .map((file) => join("dist", String(file)))
  .filter((file) => file.endsWith(".bench.js"))
  .filter((file) => rooms.length === 0 || rooms.some((room) => file.split("/")[1] === room))
  .sort();
if (benches.length === 0) {
  console.error(`no benchmark in ${rooms.join(", ")}: rooms are the folders of src.`);
  process.exit(1);
}
if (existsSync("peers/package.json") && !existsSync("peers/node_modules")) {
  spawnSync("npm", ["ci", "--ignore-scripts", "--prefix", "peers"], { stdio: "inherit" });
}
for (const bench of benches) {
  console.log(`\n# ${bench.replace(/^dist\//, "").replace(/\.bench\.js$/, "")}`);
  const result = spawnSync(process.execPath, [bench, "--large", ...flags], { stdio: "inherit" });
  if (result.status !== 0) process.exitCode = 1;
}
