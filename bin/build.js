/** @file Builds `src` to `dist` (tsc, incremental) and the dashboard (Vite); `--if-stale` skips what is up to date. */
import { spawnSync } from "node:child_process";
import { existsSync, readdirSync, rmSync, statSync } from "node:fs";
import { dirname, join, resolve } from "node:path";
import { fileURLToPath } from "node:url";

const root = resolve(dirname(fileURLToPath(import.meta.url)), "..");
process.chdir(root);

/** Every file under `folder`, as paths from the root. */
function filesUnder(folder) {
  if (!existsSync(folder)) return [];
  return readdirSync(folder, { recursive: true, withFileTypes: true })
    .filter((entry) => entry.isFile())
    .map((entry) => join(entry.parentPath, entry.name));
}

/** Whether any of `sources` changed after `output` was written. */
function isStale(output, sources) {
  if (!existsSync(output)) return true;
  const built = statSync(output).mtimeMs;
  return sources.some((file) => statSync(file).mtimeMs > built);
}

/** Deletes outputs whose source is gone: tsc leaves them, and node --test would run them. */
function sweep(sources) {
  const wanted = new Set(sources.map((file) => file.replace(/^src/, "dist").replace(/\.ts$/, "")));
  for (const file of filesUnder("dist")) {
    if (file.startsWith(join("dist", "web", "page")) || file.endsWith(".tsbuildinfo")) continue;
    if (!wanted.has(file.replace(/(\.d)?\.[jt]s(\.map)?$/, ""))) rmSync(file);
  }
}

/** Runs a locally installed tool, and ends this process with its status if it fails. */
function runTool(script, ...args) {
  const result = spawnSync(process.execPath, [join("node_modules", script), ...args], {
    stdio: ["ignore", "inherit", "inherit"],
  });
  if (result.status !== 0) process.exit(result.status ?? 1);
}

const onlyIfStale = process.argv.includes("--if-stale");
const pageFolder = join("src", "web", "page");
const pageFiles = filesUnder(pageFolder);
const codeFiles = filesUnder("src").filter(
  (file) => file.endsWith(".ts") && !file.startsWith(pageFolder),
);
const setup = ["package.json", "tsconfig.json", "bin/build.js"];
if (!existsSync("node_modules")) {
  console.error("node_modules is missing: run `npm ci` first.");
  process.exit(1);
}
const stamp = join("dist", ".tsbuildinfo");
if (!onlyIfStale || isStale(stamp, [...codeFiles, ...setup])) {
  sweep(codeFiles);
  runTool("typescript/bin/tsc");
}
if (isStale(join("dist", "web", "page", "index.html"), [...pageFiles, "bin/build.js"])) {
  if (pageFiles.length > 0) {
    runTool(
      "vite/bin/vite.js",
      "build",
      "--logLevel",
      "warn",
      "--config",
      `${pageFolder}/vite.config.ts`,
    );
  }
}
