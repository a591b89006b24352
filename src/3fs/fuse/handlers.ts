/** @file One function per operation of the protocol: reads the request, asks, packs the reply. */
import type { AttributeChange, FileLock, FileSystem, Opened } from "./file-system.ts";
import { FileSystemError } from "./file-system.ts";
import {
  entryReply,
  opcode,
  packDirectory,
  ReplyWriter,
  type Requester,
  type RequestReader,
} from "./protocol.ts";

/** The pieces of a reply; "none" where the kernel waits for none. */
export type Answer = readonly Uint8Array[] | "none";

/** A request beside its body. */
export interface RequestContext {
  readonly who: Requester;
  readonly node: number;
  readonly body: RequestReader;
  readonly validMs: number;
  /** Aborts when the kernel takes the request back. */
  readonly signal: () => AbortSignal;
}

type Handler = (fs: FileSystem, request: RequestContext) => Promise<Answer> | Answer | undefined;

const nothing: Answer = [];

/** Answers the operation `code`; undefined where the file system does not have it. */
export async function answerRequest(
  fs: FileSystem,
  code: number,
  request: RequestContext,
): Promise<Answer | undefined> {
  return handlers.get(code)?.(fs, request);
}

function openReply({ handle, directIo, keepCache }: Opened): Buffer {
  return new ReplyWriter(16)
    .u64(handle)
    .u32((directIo ? 1 : 0) | (keepCache ? 2 : 0))
    .u32(0).bytes;
}

async function done(work: Promise<unknown>): Promise<Answer> {
  await work;
  return nothing;
}

const names: [number, Handler][] = [
  [
    opcode.lookup,
    async (fs, { who, node, body, validMs }) => [
      entryReply(await fs.lookup(who, node, body.name()), validMs),
    ],
  ],
  [
    opcode.forget,
    (fs, { node, body }) => {
      fs.forget?.(node, body.u64());
      return "none";
    },
  ],
  [
    opcode.batchForget,
    (fs, { body }) => {
      const count = body.u32();
      body.skip(4);
      for (let i = 0; i < count; i++) fs.forget?.(body.u64(), body.u64());
      return "none";
    },
  ],
  [
    opcode.symlink,
    (fs, { who, node, body, validMs }) => {
      const [name, target] = [body.name(), body.name()];
      return fs.symlink?.(who, node, name, target).then((entry) => [entryReply(entry, validMs)]);
    },
  ],
  [
    opcode.mknod,
    (fs, { who, node, body, validMs }) => {
      const [mode, device] = [body.u32(), body.u32()];
      const name = body.skip(8).name();
      return fs
        .mknod?.(who, node, name, mode, device)
        .then((entry) => [entryReply(entry, validMs)]);
    },
  ],
  [
    opcode.mkdir,
    async (fs, { who, node, body, validMs }) => {
      const mode = body.u32();
      const name = body.skip(4).name();
      return [entryReply(await fs.mkdir(who, node, name, mode), validMs)];
    },
  ],
  [opcode.unlink, (fs, { who, node, body }) => done(fs.unlink(who, node, body.name()))],
  [opcode.rmdir, (fs, { who, node, body }) => done(fs.rmdir(who, node, body.name()))],
  [opcode.rename, (fs, request) => rename(fs, request, false)],
  [opcode.rename2, (fs, request) => rename(fs, request, true)],
  [
    opcode.link,
    (fs, { who, node, body, validMs }) => {
      const [old, name] = [body.u64(), body.name()];
      return fs.link?.(who, old, node, name).then((entry) => [entryReply(entry, validMs)]);
    },
  ],
  [
    opcode.readlink,
    (fs, { who, node }) => fs.readlink?.(who, node).then((target) => [Buffer.from(target)]),
  ],
];

function rename(fs: FileSystem, { who, node, body }: RequestContext, hasFlags: boolean) {
  const newParent = body.u64();
  const flags = hasFlags ? body.u32() : 0;
  if (hasFlags) body.skip(4);
  const [name, newName] = [body.name(), body.name()];
  return done(fs.rename(who, node, name, newParent, newName, flags));
}

const attributesOf: [number, Handler][] = [
  [
    opcode.getattr,
    async (fs, { who, node, body, validMs }) => {
      const flags = body.u32();
      const handle = body.skip(4).u64();
      const attributes = await fs.getattr(who, node, flags & 1 ? handle : undefined);
      return [new ReplyWriter(104).attributesReply(attributes, validMs).bytes];
    },
  ],
  [
    opcode.setattr,
    async (fs, { who, node, body, validMs }) => {
      const attributes = await fs.setattr(who, node, readChange(body));
      return [new ReplyWriter(104).attributesReply(attributes, validMs).bytes];
    },
  ],
  [
    opcode.statfs,
    async (fs, { who, node }) => {
      const { blocks, freeBlocks, files, freeFiles, blockBytes } = await fs.statfs(who, node);
      const writer = new ReplyWriter(80).u64(blocks).u64(freeBlocks).u64(freeBlocks);
      writer.u64(files).u64(freeFiles).u32(blockBytes).u32(255).u32(blockBytes);
      return [writer.bytes];
    },
  ],
  [
    opcode.setxattr,
    (fs, { who, node, body }) => {
      const [size, flags] = [body.u32(), body.u32()];
      const name = body.name();
      const result = fs.setxattr?.(who, node, name, body.rest(size), flags);
      return result && done(result);
    },
  ],
  [
    opcode.getxattr,
    (fs, { who, node, body }) => {
      const size = body.u32();
      const name = body.skip(4).name();
      return fs.getxattr?.(who, node, name).then((value) => sized(value, size, name));
    },
  ],
  [
    opcode.listxattr,
    (fs, { who, node, body }) => {
      const size = body.u32();
      return fs.listxattr?.(who, node).then((all) => {
        return sized(Buffer.from(all.map((name) => `${name}\0`).join("")), size, "names");
      });
    },
  ],
  [
    opcode.removexattr,
    (fs, { who, node, body }) => {
      const result = fs.removexattr?.(who, node, body.name());
      return result && done(result);
    },
  ],
];

/** A value, or its length where that is asked for by a size of 0. */
function sized(value: Uint8Array, size: number, what: string): Answer {
  if (size === 0) return [new ReplyWriter(8).u32(value.length).u32(0).bytes];
  if (value.length > size) throw new FileSystemError("ERANGE", `extended attribute ${what}`);
  return [value];
}

function readChange(body: RequestReader): AttributeChange {
  const valid = body.u32();
  const has = (bit: number): boolean => (valid & (1 << bit)) !== 0;
  const handle = body.skip(4).u64();
  const size = body.u64();
  body.skip(8);
  const [accessed, modified] = [body.u64(), body.u64()];
  body.skip(8);
  const [accessedNs, modifiedNs] = [body.u32(), body.u32()];
  const mode = body.skip(4).u32();
  const [uid, gid] = [body.skip(4).u32(), body.u32()];
  const time = (bit: number, now: number, seconds: number, ns: number) =>
    has(now) ? "now" : has(bit) ? seconds * 1000 + ns / 1e6 : undefined;
  const accessedMs = time(4, 7, accessed, accessedNs);
  const modifiedMs = time(5, 8, modified, modifiedNs);
  return {
    ...(has(0) && { mode }),
    ...(has(1) && { uid }),
    ...(has(2) && { gid }),
    ...(has(3) && { size }),
    ...(accessedMs !== undefined && { accessedMs }),
    ...(modifiedMs !== undefined && { modifiedMs }),
    ...(has(6) && { handle }),
  };
}

const releaseFlockUnlock = 2;

const files: [number, Handler][] = [
  [
    opcode.open,
    async (fs, { who, node, body }) => [openReply(await fs.open(who, node, body.u32()))],
  ],
  [
    opcode.create,
    async (fs, { who, node, body, validMs }) => {
      const [flags, mode] = [body.u32(), body.u32()];
      const name = body.skip(8).name();
      const { entry, opened } = await fs.create(who, node, name, mode, flags);
      return [entryReply(entry, validMs), openReply(opened)];
    },
  ],
  [
    opcode.read,
    async (fs, { who, node, body }) => {
      const [handle, offset, size] = [body.u64(), body.u64(), body.u32()];
      const data = await fs.read(who, node, handle, offset, size);
      return data instanceof Uint8Array ? [data] : data;
    },
  ],
  [
    opcode.write,
    async (fs, { who, node, body }) => {
      const [handle, offset, size] = [body.u64(), body.u64(), body.u32()];
      const data = body.skip(20).rest(size);
      const written = await fs.write(who, node, handle, offset, data);
      return [new ReplyWriter(8).u32(written).u32(0).bytes];
    },
  ],
  [
    opcode.flush,
    (fs, { who, node, body }) => {
      const handle = body.u64();
      const result = fs.flush?.(who, node, handle, body.skip(8).big());
      return result && done(result);
    },
  ],
  [
    opcode.release,
    (fs, { node, body }) => {
      const [handle, flags, releaseFlags] = [body.u64(), body.u32(), body.u32()];
      const owner = releaseFlags & releaseFlockUnlock ? body.big() : undefined;
      return done(fs.release(node, handle, flags, owner));
    },
  ],
  [
    opcode.fsync,
    (fs, { who, node, body }) => {
      const handle = body.u64();
      const result = fs.fsync?.(who, node, handle, (body.u32() & 1) !== 0);
      return result && done(result);
    },
  ],
  [
    opcode.fallocate,
    (fs, { who, node, body }) => {
      const [handle, offset, length, mode] = [body.u64(), body.u64(), body.u64(), body.u32()];
      const result = fs.fallocate?.(who, node, handle, offset, length, mode);
      return result && done(result);
    },
  ],
  [
    opcode.lseek,
    (fs, { who, node, body }) => {
      const [handle, offset, whence] = [body.u64(), body.u64(), body.u32()];
      return fs
        .lseek?.(who, node, handle, offset, whence)
        .then((at) => [new ReplyWriter(8).u64(at).bytes]);
    },
  ],
  [
    opcode.syncfs,
    (fs, { node }) => {
      const result = fs.syncfs?.(node);
      return result && done(result);
    },
  ],
];

const directories: [number, Handler][] = [
  [opcode.opendir, (fs, { who, node }) => fs.opendir?.(who, node).then((o) => [openReply(o)])],
  [opcode.readdir, (fs, request) => readdir(fs, request, false)],
  [opcode.readdirplus, (fs, request) => readdir(fs, request, true)],
  [
    opcode.releasedir,
    (fs, { node, body }) => {
      const result = fs.releasedir?.(node, body.u64());
      return result && done(result);
    },
  ],
];

async function readdir(
  fs: FileSystem,
  { who, node, body, validMs }: RequestContext,
  plus: boolean,
): Promise<Answer> {
  const [handle, offset, size] = [body.u64(), body.u64(), body.u32()];
  const entries = await fs.readdir(who, node, handle, offset, size, plus);
  const { bytes, count } = packDirectory(entries, size, plus, validMs);
  if (plus) fs.tookEntries?.(entries.slice(0, count));
  return [bytes];
}

const lockKinds = ["read", "write", "none"] as const;

function readLock(body: RequestReader): { handle: number; lock: FileLock } {
  const handle = body.u64();
  const owner = body.big();
  const [start, end, type, pid] = [body.u64(), body.u64(), body.u32(), body.u32()];
  const isFlock = (body.u32() & 1) !== 0;
  return { handle, lock: { kind: lockKinds[type] ?? "none", start, end, owner, pid, isFlock } };
}

const locks: [number, Handler][] = [
  [
    opcode.getlk,
    (fs, { who, node, body }) => {
      const { handle, lock } = readLock(body);
      return fs.getlk?.(who, node, handle, lock).then(({ kind, start, end, pid }) => {
        const writer = new ReplyWriter(24).u64(start).u64(Math.min(end, 2 ** 63 - 1024));
        return [writer.u32(lockKinds.indexOf(kind)).u32(pid).bytes];
      });
    },
  ],
  [opcode.setlk, (fs, request) => setLock(fs, request, false)],
  [opcode.setlkw, (fs, request) => setLock(fs, request, true)],
];

function setLock(fs: FileSystem, { who, node, body, signal }: RequestContext, wait: boolean) {
  if (!fs.setlk) return undefined;
  const { handle, lock } = readLock(body);
  return done(fs.setlk(who, node, handle, lock, wait, signal()));
}

const handlers: ReadonlyMap<number, Handler> = new Map([
  ...names,
  ...attributesOf,
  ...files,
  ...directories,
  ...locks,
]);
