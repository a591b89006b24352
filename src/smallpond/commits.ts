/**
 * @file Commits: one small file a finished task, under `commits/` of the root. The first attempt to
 * link its commit there wins; a later one finds it and throws its own output away. They are the only
 * truth about what is done: queues and processes may forget.
 */
import {
  linkSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  rmSync,
  statSync,
  unlinkSync,
  writeFileSync,
} from "node:fs";
import { join } from "node:path";
import type { Commit } from "./task.ts";

const folderOf = (root: string) => join(root, "commits");

/** Makes the folders of a root. */
export function makeRoot(root: string): void {
  for (const name of ["commits", "data", "spill", "items"]) {
    mkdirSync(join(root, name), { recursive: true });
  }
}

/** The commit of the task, which is `own` if no other attempt came first. */
export function commitTask(root: string, own: Commit): Commit {
  const target = join(folderOf(root), `${own.key}.json`);
  const temporary = `${target}.${own.attempt}.tmp`;
  writeFileSync(temporary, JSON.stringify(own));
  try {
    for (let tries = 0; tries < 3; tries++) {
      try {
        linkSync(temporary, target);
        return own;
      } catch (error) {
        if ((error as NodeJS.ErrnoException).code !== "EEXIST") throw error;
        const first = readCommit(root, own.key);
        if (first) {
          if (own.file !== undefined && own.file !== first.file) rmSync(own.file, { force: true });
          return first;
        }
        // What lies there is no whole commit, or its output is gone: it does not count.
        rmSync(target, { force: true });
      }
    }
    throw new Error(`the commit of ${own.key} keeps vanishing`);
  } finally {
    unlinkSync(temporary);
  }
}

/** The commit of a task if it is whole and its output is still there. */
export function readCommit(root: string, key: string): Commit | undefined {
  try {
    const text = readFileSync(join(folderOf(root), `${key}.json`), "utf8");
    const commit = JSON.parse(text) as Commit;
    if (commit.file === undefined) return commit;
    return statSync(commit.file).size === commit.bytes ? commit : undefined;
  } catch (error) {
    const code = (error as NodeJS.ErrnoException).code;
    if (code === "ENOENT" || error instanceof SyntaxError) return undefined;
    throw error;
  }
}

/** The keys of all commits of a root. */
export function committedKeys(root: string): Set<string> {
  const names = readdirSync(folderOf(root));
  return new Set(names.filter((name) => name.endsWith(".json")).map((name) => name.slice(0, -5)));
}
