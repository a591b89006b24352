/** @file Sorts one file in a process of its own, for tests to kill: INPUT OUTPUT MEMORY_BYTES. */
import { sortFiles } from "../index.ts";

const [input, output, memoryBytes] = process.argv.slice(2);
try {
  const report = await sortFiles({
    inputs: [input],
    output,
    memoryBytes: Number(memoryBytes),
    workers: 1,
  });
  console.log(JSON.stringify(report));
} catch (error) {
  console.error((error as Error).message);
  process.exitCode = 1;
}
