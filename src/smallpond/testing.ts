/** @file What the tests of this room share: sessions in folders of their own, and an oracle. */
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import type { DuckDBValue } from "@duckdb/node-api";
import { closeDuck, openDuck } from "./duck.ts";
import { init, type Pond, type PondOptions } from "./pond.ts";

const folders: string[] = [];
process.on("exit", () => {
  for (const folder of folders) rmSync(folder, { recursive: true, force: true });
});

/** A fresh folder, removed when the process ends. */
export function freshFolder(name: string): string {
  const folder = mkdtempSync(join(tmpdir(), `baleen-pond-${name}-`));
  folders.push(folder);
  return folder;
}

/** Calls `use` with a session of two workers and small memory, and closes it. */
export async function withPond<R>(
  use: (pond: Pond, folder: string) => Promise<R>,
  options: PondOptions = {},
): Promise<R> {
  const folder = freshFolder("test");
  const pond = await init({
    root: join(folder, "root"),
    workers: 2,
    taskMemoryBytes: 512 * 2 ** 20,
    ...options,
  });
  try {
    return await use(pond, folder);
  } finally {
    await pond.close();
  }
}

/** The rows that bare DuckDB gives for a query. */
export async function bareRows(sql: string): Promise<DuckDBValue[][]> {
  const duck = await openDuck({ threads: 2, memoryBytes: 2 ** 30, spillFolder: tmpdir() });
  try {
    return await (await duck.connection.run(sql)).getRows();
  } finally {
    closeDuck(duck);
  }
}
