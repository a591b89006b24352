/**
 * @file Output that appears as a whole or not at all. Tasks write into a staging folder beside the
 * output; when all have committed, their files and a manifest are gathered in a new folder, flushed,
 * and one rename makes it the output. A run that finds the manifest of its own plan does nothing.
 */
import { existsSync, readFileSync } from "node:fs";
import { link, mkdir, open, readdir, rename, rm, writeFile } from "node:fs/promises";
import { dirname, join } from "node:path";
import { pondError } from "./errors.ts";
import { manifestName } from "./resolve.ts";
import type { Commit } from "./task.ts";

/** What a folder of output holds; `_manifest.json`. */
export interface OutputManifest {
  /** The key of the plan that made it. */
  readonly key: string;
  readonly format: string;
  readonly rows: number;
  readonly files: readonly {
    readonly name: string;
    readonly rows: number;
    readonly bytes: number;
  }[];
}

/** The manifest of a folder, or undefined where there is none. */
export function readManifest(folder: string): OutputManifest | undefined {
  const path = join(folder, manifestName);
  if (!existsSync(path)) return undefined;
  try {
    return JSON.parse(readFileSync(path, "utf8")) as OutputManifest;
  } catch (error) {
    throw pondError(
      "input-invalid",
      `${path} is no manifest; remove the folder or write to another.`,
      error,
    );
  }
}

/** The folder in which the tasks of an output stage their files. */
export function stagingFolder(folder: string): string {
  return `${folder}.staging`;
}

/** Throws unless `folder` may be written: absent, empty, or to be replaced. */
export async function checkTarget(folder: string, mode: "create" | "overwrite"): Promise<void> {
  if (mode === "overwrite" || !existsSync(folder)) return;
  const names = await readdir(folder);
  if (names.length === 0) return;
  throw pondError(
    "output-exists",
    `${folder} is not empty; write to another folder, or with mode "overwrite".`,
  );
}

/** Makes the committed files the content of `folder`, at once. */
export async function publish(
  folder: string,
  key: string,
  format: string,
  commits: readonly Commit[],
): Promise<OutputManifest> {
  const gathered = `${folder}.publishing`;
  await rm(gathered, { recursive: true, force: true });
  await mkdir(gathered, { recursive: true });
  const width = Math.max(5, String(commits.length).length);
  const files = commits.map(({ rows, bytes }, i) => {
    return { name: `part-${String(i).padStart(width, "0")}.${format}`, rows, bytes };
  });
  const rows = files.reduce((sum, file) => sum + file.rows, 0);
  const manifest: OutputManifest = { key, format, rows, files };
  for (let i = 0; i < files.length; i++) {
    const path = join(gathered, files[i].name);
    await link(commits[i].file as string, path);
    await flush(path);
  }
  const manifestPath = join(gathered, manifestName);
  await writeFile(manifestPath, JSON.stringify(manifest, null, 1));
  await flush(manifestPath);
  await flush(gathered);
  if (existsSync(folder)) {
    const old = `${folder}.replaced`;
    await rm(old, { recursive: true, force: true });
    await rename(folder, old);
    await rename(gathered, folder);
    await rm(old, { recursive: true, force: true });
  } else await rename(gathered, folder);
  await flush(dirname(folder));
  await rm(stagingFolder(folder), { recursive: true, force: true });
  return manifest;
}

async function flush(path: string): Promise<void> {
  const file = await open(path, "r");
  try {
    await file.sync();
  } finally {
    await file.close();
  }
}
