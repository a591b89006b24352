/**
 * @file Runs on a GPU what the tests run in the emulator: the litmus tests first, then every kernel
 * against its reference, then timings (`*.gpu.js` in `dist`). `npm run gpu` builds before.
 */
import { spawnSync } from "node:child_process";
import { readdirSync } from "node:fs";
import { dirname, join, resolve } from "node:path";
import { fileURLToPath } from "node:url";

const dist = resolve(dirname(fileURLToPath(import.meta.url)), "..", "dist");
const { openCuda } = await import(join(dist, "device", "index.js"));
try {
  const device = openCuda();
  console.log(device.description);
  device.close();
} catch (error) {
  console.error(`no GPU: ${error.message}`);
  process.exit(1);
}
const files = readdirSync(dist, { recursive: true }).map(String).sort();
const tests = [
  ...files.filter((file) => file.endsWith(join("cuda", "litmus.test.js"))),
  ...files.filter((file) => /\/ptx-[^/]+\.test\.js$/.test(file)),
];
const env = { ...process.env, BALEEN_GPU: "1" };
const run = (args) =>
  spawnSync(process.execPath, args, { cwd: dist, env, stdio: "inherit" }).status;
for (const test of tests) {
  console.log(`\n# ${test}`);
  const status = run(["--test", "--test-reporter=spec", join(dist, test)]);
  if (status !== 0) process.exit(status ?? 1);
}
for (const timing of files.filter((file) => file.endsWith(".gpu.js"))) {
  const status = run([join(dist, timing)]);
  if (status !== 0) process.exitCode = status ?? 1;
}
