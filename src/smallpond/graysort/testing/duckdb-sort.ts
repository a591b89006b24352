/** @file The rival of the benchmark: DuckDB sorts lines. INPUT OUTPUT MEMORY_BYTES THREADS. */
import { dirname } from "node:path";
import { DuckDBInstance } from "@duckdb/node-api";

const [input, output, memoryBytes, threads] = process.argv.slice(2);
const instance = await DuckDBInstance.create(":memory:", {
  threads,
  memory_limit: `${Math.floor(Number(memoryBytes) / 1e6)}MB`,
  temp_directory: `${dirname(output)}/duckdb-spill`,
});
const connection = await instance.connect();
// A delimiter and a quote that no line holds, so that each line is one value.
const reader = `delim = '\x01', quote = '', escape = '', header = false, columns = {line: 'VARCHAR'}`;
const writer = `format csv, header false, delim '\x01', quote '', escape ''`;
await connection.run(
  `copy (select line from read_csv('${input}', ${reader}) order by line) to '${output}' (${writer})`,
);
