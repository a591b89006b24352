/**
 * @file A file system in a few lines, against which `meta` is held: one user, names and kinds and
 * lengths. A state is a plain value; an operation gives the next state and its answer.
 */
import { BaleenError } from "../../../base/index.ts";
import type { Meta } from "../meta.ts";
import type { Caller } from "../types.ts";

/** What a model keeps of an inode. */
interface ModelInode {
  kind: "file" | "directory" | "symlink";
  links: number;
  length: number;
  entries: Record<string, number>;
}

/** A state of the model. */
export interface ModelState {
  next: number;
  inodes: Record<number, ModelInode>;
}

/** One operation. Paths are absolute, and no component but the last is a symbolic link. */
export type ModelOperation =
  | { kind: "mkdir" | "create" | "symlink" | "rmdir" | "unlink" | "rmtree"; path: string }
  | { kind: "stat" | "list"; path: string }
  | { kind: "truncate"; path: string; length: number }
  | { kind: "rename" | "link" | "exchange"; path: string; to: string };

/** The empty file system. */
export function emptyModel(): ModelState {
  const trash: ModelInode = { kind: "directory", links: 1, length: 0, entries: {} };
  const top: ModelInode = { kind: "directory", links: 1, length: 0, entries: { ".trash": 2 } };
  return { next: 3, inodes: { 1: top, 2: trash } };
}

class Refused extends Error {}
const fail = (code: string): never => {
  throw new Refused(code);
};

/** The state and the answer after an operation; the given state stays as it is. */
export function applyToModel(
  before: ModelState,
  operation: ModelOperation,
): { state: ModelState; answer: string } {
  const state = structuredClone(before);
  try {
    return { answer: perform(state, operation), state };
  } catch (error) {
    if (!(error instanceof Refused)) throw error;
    return { answer: error.message, state: before };
  }
}

interface ModelPlace {
  parent: ModelInode;
  parentId: number;
  name: string;
  id: number | undefined;
}

function find(state: ModelState, path: string): ModelPlace {
  const names = path.split("/").filter(Boolean);
  const name = names.pop() ?? "";
  let parentId = 1;
  for (const step of names) {
    const id = state.inodes[parentId].entries[step] ?? fail("fs-not-found");
    if (state.inodes[id].kind !== "directory") fail("fs-not-directory");
    parentId = id;
  }
  const parent = state.inodes[parentId];
  return { parent, parentId, name, id: parent.entries[name] };
}

function drop(state: ModelState, id: number): void {
  if (--state.inodes[id].links === 0) delete state.inodes[id];
}

function isBelow(state: ModelState, id: number, above: number): boolean {
  if (id === above) return true;
  return Object.values(state.inodes[above].entries).some((child) => isBelow(state, id, child));
}

function perform(state: ModelState, operation: ModelOperation): string {
  const place = find(state, operation.path);
  const { parent, name, id } = place;
  switch (operation.kind) {
    case "mkdir":
    case "create":
    case "symlink": {
      if (id !== undefined) fail("fs-exists");
      const kind = { mkdir: "directory", create: "file", symlink: "symlink" } as const;
      const length = operation.kind === "symlink" ? 1 : 0;
      state.inodes[state.next] = { kind: kind[operation.kind], links: 1, length, entries: {} };
      parent.entries[name] = state.next++;
      return "ok";
    }
    case "rmdir":
    case "unlink":
    case "rmtree":
      return performRemove(state, operation.kind, place);
    case "stat": {
      const { kind, links, length } = state.inodes[id ?? fail("fs-not-found")];
      return `${kind} ${links} ${length}`;
    }
    case "list": {
      const inode = state.inodes[id ?? fail("fs-not-found")];
      if (inode.kind !== "directory") fail("fs-not-directory");
      return Object.keys(inode.entries).sort().join(" ");
    }
    case "truncate": {
      const inode = state.inodes[id ?? fail("fs-not-found")];
      if (inode.kind === "directory") fail("fs-is-directory");
      if (inode.kind === "symlink") fail("fs-input-invalid");
      inode.length = operation.length;
      return "ok";
    }
    case "link": {
      const inode = state.inodes[id ?? fail("fs-not-found")];
      const to = find(state, operation.to);
      if (inode.kind === "directory") fail("fs-not-permitted");
      if (to.id !== undefined) fail("fs-exists");
      to.parent.entries[to.name] = id!;
      inode.links++;
      return "ok";
    }
    default:
      return performRename(state, place, find(state, operation.to), operation.kind === "exchange");
  }
}

function performRemove(
  state: ModelState,
  kind: "rmdir" | "unlink" | "rmtree",
  { parent, name, id }: ModelPlace,
): string {
  if (id === undefined) return fail("fs-not-found");
  const inode = state.inodes[id];
  if (kind === "unlink" && inode.kind === "directory") fail("fs-is-directory");
  if (kind === "rmdir" && inode.kind !== "directory") fail("fs-not-directory");
  const children = Object.keys(inode.entries);
  if (kind !== "rmtree" && children.length > 0) fail("fs-not-empty");
  for (const child of children) {
    performRemove(state, "rmtree", {
      parent: inode,
      parentId: id,
      name: child,
      id: inode.entries[child],
    });
  }
  delete parent.entries[name];
  drop(state, id);
  return "ok";
}

function performRename(
  state: ModelState,
  from: ModelPlace,
  to: ModelPlace,
  exchange: boolean,
): string {
  if (from.id === undefined) return fail("fs-not-found");
  if (exchange && to.id === undefined) return fail("fs-not-found");
  if (from.id === to.id) return "ok";
  const moved = state.inodes[from.id];
  const elsewhere = from.parentId !== to.parentId;
  if (moved.kind === "directory" && elsewhere && isBelow(state, to.parentId, from.id)) {
    return fail("fs-input-invalid");
  }
  if (to.id !== undefined && exchange) {
    const other = state.inodes[to.id];
    if (other.kind === "directory" && elsewhere && isBelow(state, from.parentId, to.id)) {
      return fail("fs-input-invalid");
    }
    from.parent.entries[from.name] = to.id;
  } else {
    if (to.id !== undefined) {
      const replaced = state.inodes[to.id];
      const [comes, goes] = [moved.kind === "directory", replaced.kind === "directory"];
      if (comes && !goes) return fail("fs-not-directory");
      if (goes && !comes) return fail("fs-is-directory");
      if (Object.keys(replaced.entries).length > 0) return fail("fs-not-empty");
      drop(state, to.id);
    }
    delete from.parent.entries[from.name];
  }
  to.parent.entries[to.name] = from.id;
  return "ok";
}

/** The answer of the real service to an operation, in the model's words. */
export async function applyToMeta(
  meta: Meta,
  caller: Caller,
  operation: ModelOperation,
): Promise<string> {
  try {
    return await ask(meta, caller, operation);
  } catch (error) {
    if (error instanceof BaleenError) return error.code;
    throw error;
  }
}

async function ask(meta: Meta, caller: Caller, operation: ModelOperation): Promise<string> {
  const { path } = operation;
  const { request: _, ...anonymous } = caller;
  switch (operation.kind) {
    case "mkdir":
      await meta.mkdir(caller, { path }, 0o755);
      break;
    case "create":
      await meta.open(caller, { path }, { createMode: 0o644, isExclusive: true });
      break;
    case "symlink":
      await meta.symlink(caller, { path }, "x");
      break;
    case "rmdir":
      await meta.remove(caller, { path }, { expect: "directory" });
      break;
    case "unlink":
      await meta.remove(caller, { path }, { expect: "file" });
      break;
    case "rmtree":
      await meta.remove(caller, { path }, { isRecursive: true });
      break;
    case "stat": {
      const { kind, links, length } = await meta.lookup(anonymous, { path }, { noFollow: true });
      return `${kind} ${links} ${length}`;
    }
    case "list": {
      const { id } = await meta.lookup(anonymous, { path }, { noFollow: true });
      const { entries } = await meta.readdir(anonymous, id);
      return entries.map(({ name }) => name).join(" ");
    }
    case "truncate": {
      const { id } = await meta.lookup(anonymous, { path }, { noFollow: true });
      await meta.truncate(caller, id, operation.length);
      break;
    }
    case "link": {
      const { id } = await meta.lookup(anonymous, { path }, { noFollow: true });
      await meta.link(caller, id, { path: operation.to });
      break;
    }
    default:
      await meta.rename(
        caller,
        { path },
        { path: operation.to },
        {
          exchange: operation.kind === "exchange",
        },
      );
  }
  return "ok";
}
