/**
 * @file A whole file system in memory, for tests of the session: files, folders, links, attributes,
 * locks, holes. Everything is where one would look for it first; nothing is fast.
 */
import {
  type AttributeChange,
  type FileLock,
  type FileSystem,
  FileSystemError,
  type Opened,
  type Totals,
} from "../file-system.ts";
import type { Attributes, DirectoryEntry, Entry, Requester } from "../protocol.ts";

interface Node {
  readonly inode: number;
  mode: number;
  uid: number;
  gid: number;
  links: number;
  device: number;
  accessedMs: number;
  modifiedMs: number;
  changedMs: number;
  data: Buffer;
  target: string;
  readonly children: Map<string, number>;
  parent: number;
  readonly xattrs: Map<string, Uint8Array>;
  open: number;
}

const kindMask = 0o170000;
const directory = 0o040000;
const regular = 0o100000;
const symbolic = 0o120000;
/** O_TRUNC, which the session leaves to `open`. */
const truncateFlag = 0o1000;

/** The file system; node 1 is its root. */
export class MemoryFileSystem implements FileSystem {
  /** What an injected fault does before an operation, by its name. */
  before: ((operation: string) => Promise<void> | void) | undefined;
  private readonly nodes = new Map<number, Node>();
  private readonly locks = new Map<number, FileLock[]>();
  private nextInode = 2;

  constructor() {
    this.nodes.set(1, this.make(1, directory | 0o755, { uid: 0, gid: 0 }));
  }

  /** Bytes of the file at `inode`, for tests. */
  bytesOf(inode: number): Buffer {
    return this.node(inode).data;
  }

  private make(inode: number, mode: number, who: { uid: number; gid: number }): Node {
    const now = Date.now();
    return {
      inode,
      mode,
      uid: who.uid,
      gid: who.gid,
      links: (mode & kindMask) === directory ? 2 : 1,
      device: 0,
      accessedMs: now,
      modifiedMs: now,
      changedMs: now,
      data: Buffer.from(new ArrayBuffer(0)),
      target: "",
      children: new Map(),
      parent: 1,
      xattrs: new Map(),
      open: 0,
    };
  }

  private node(inode: number): Node {
    const node = this.nodes.get(inode);
    if (!node) throw new FileSystemError("ESTALE", `node ${inode}`);
    return node;
  }

  private child(parent: number, name: string): Node {
    const inode = this.node(parent).children.get(name);
    if (inode === undefined) throw new FileSystemError("ENOENT", name);
    return this.node(inode);
  }

  private attributes(node: Node): Attributes {
    const size = node.target === "" ? node.data.length : Buffer.byteLength(node.target);
    const { inode, mode, links, uid, gid, device, accessedMs, modifiedMs, changedMs } = node;
    return { inode, size, mode, links, uid, gid, device, accessedMs, modifiedMs, changedMs };
  }

  private entry(node: Node): Entry {
    return { node: node.inode, attributes: this.attributes(node) };
  }

  private touch(node: Node): void {
    node.modifiedMs = Date.now();
    node.changedMs = node.modifiedMs;
  }

  private add(who: Requester, parent: number, name: string, mode: number): Node {
    const folder = this.node(parent);
    if (Buffer.byteLength(name) > 255) throw new FileSystemError("ENAMETOOLONG", name);
    if (folder.children.has(name)) throw new FileSystemError("EEXIST", name);
    const node = this.make(this.nextInode++, mode, who);
    node.parent = parent;
    this.nodes.set(node.inode, node);
    folder.children.set(name, node.inode);
    if ((mode & kindMask) === directory) folder.links++;
    this.touch(folder);
    return node;
  }

  private drop(node: Node): void {
    node.links--;
    node.changedMs = Date.now();
    if (node.links <= 0 && node.open === 0) this.nodes.delete(node.inode);
  }

  async lookup(_who: Requester, parent: number, name: string): Promise<Entry> {
    await this.before?.("lookup");
    if (name === ".") return this.entry(this.node(parent));
    if (name === "..") return this.entry(this.node(this.node(parent).parent));
    return this.entry(this.child(parent, name));
  }

  async getattr(_who: Requester, node: number): Promise<Attributes> {
    await this.before?.("getattr");
    return this.attributes(this.node(node));
  }

  async setattr(_who: Requester, inode: number, change: AttributeChange): Promise<Attributes> {
    const node = this.node(inode);
    const now = Date.now();
    if (change.mode !== undefined) node.mode = (node.mode & kindMask) | (change.mode & 0o7777);
    if (change.uid !== undefined) node.uid = change.uid;
    if (change.gid !== undefined) node.gid = change.gid;
    if (change.size !== undefined) this.resize(node, change.size);
    const time = (at: number | "now"): number => (at === "now" ? now : at);
    if (change.accessedMs !== undefined) node.accessedMs = time(change.accessedMs);
    if (change.modifiedMs !== undefined) node.modifiedMs = time(change.modifiedMs);
    node.changedMs = now;
    return this.attributes(node);
  }

  private resize(node: Node, size: number): void {
    if (size > 2 ** 30) throw new FileSystemError("EFBIG", "file");
    const { data } = node;
    const room = data.buffer.byteLength;
    const isOwn = data.byteOffset === 0 && size <= room;
    const memory = isOwn ? data.buffer : new ArrayBuffer(Math.max(size, 2 * room));
    const resized = Buffer.from(memory, 0, size);
    if (!isOwn) data.copy(resized);
    else if (size > data.length) resized.fill(0, data.length);
    node.data = resized;
    this.touch(node);
  }

  async readlink(_who: Requester, node: number): Promise<string> {
    return this.node(node).target;
  }

  async symlink(who: Requester, parent: number, name: string, target: string): Promise<Entry> {
    const node = this.add(who, parent, name, symbolic | 0o777);
    node.target = target;
    return this.entry(node);
  }

  async mknod(
    who: Requester,
    parent: number,
    name: string,
    mode: number,
    device: number,
  ): Promise<Entry> {
    const node = this.add(who, parent, name, mode);
    node.device = device;
    return this.entry(node);
  }

  async mkdir(who: Requester, parent: number, name: string, mode: number): Promise<Entry> {
    return this.entry(this.add(who, parent, name, directory | (mode & 0o7777)));
  }

  async unlink(_who: Requester, parent: number, name: string): Promise<void> {
    const node = this.child(parent, name);
    this.node(parent).children.delete(name);
    this.touch(this.node(parent));
    this.drop(node);
  }

  async rmdir(_who: Requester, parent: number, name: string): Promise<void> {
    const node = this.child(parent, name);
    if (node.children.size > 0) throw new FileSystemError("ENOTEMPTY", name);
    this.node(parent).children.delete(name);
    this.node(parent).links--;
    this.touch(this.node(parent));
    node.links = 1;
    this.drop(node);
  }

  async rename(
    _who: Requester,
    parent: number,
    name: string,
    newParent: number,
    newName: string,
    flags: number,
  ): Promise<void> {
    const node = this.child(parent, name);
    const other = this.node(newParent).children.get(newName);
    if (flags !== 0 && flags !== 1) throw new FileSystemError("EINVAL", "rename");
    if (flags === 1 && other !== undefined) throw new FileSystemError("EEXIST", newName);
    if (other === node.inode) return;
    const isDirectory = (node.mode & kindMask) === directory;
    if (other !== undefined) {
      const target = this.node(other);
      if (target.children.size > 0) throw new FileSystemError("ENOTEMPTY", newName);
      if ((target.mode & kindMask) === directory) {
        this.node(newParent).links--;
        target.links = 1;
      }
      this.drop(target);
    }
    this.node(parent).children.delete(name);
    this.node(newParent).children.set(newName, node.inode);
    node.parent = newParent;
    if (isDirectory) {
      this.node(parent).links--;
      this.node(newParent).links++;
    }
    this.touch(this.node(parent));
    this.touch(this.node(newParent));
    node.changedMs = Date.now();
  }

  async link(_who: Requester, inode: number, parent: number, name: string): Promise<Entry> {
    const node = this.node(inode);
    if (this.node(parent).children.has(name)) throw new FileSystemError("EEXIST", name);
    this.node(parent).children.set(name, inode);
    node.links++;
    node.changedMs = Date.now();
    this.touch(this.node(parent));
    return this.entry(node);
  }

  async open(_who: Requester, inode: number, flags: number): Promise<Opened> {
    if (flags & truncateFlag) this.resize(this.node(inode), 0);
    this.node(inode).open++;
    return { handle: inode };
  }

  async create(
    who: Requester,
    parent: number,
    name: string,
    mode: number,
  ): Promise<{ entry: Entry; opened: Opened }> {
    await this.before?.("create");
    const node = this.add(who, parent, name, regular | (mode & 0o7777));
    node.open++;
    return { entry: this.entry(node), opened: { handle: node.inode } };
  }

  async read(
    _who: Requester,
    inode: number,
    _handle: number,
    offset: number,
    size: number,
  ): Promise<readonly Uint8Array[]> {
    await this.before?.("read");
    const data = this.node(inode).data.subarray(offset, offset + size);
    const middle = data.length >> 1;
    return [data.subarray(0, middle), data.subarray(middle)];
  }

  async write(
    _who: Requester,
    inode: number,
    _handle: number,
    offset: number,
    data: Uint8Array,
  ): Promise<number> {
    await this.before?.("write");
    const node = this.node(inode);
    if (offset + data.length > node.data.length) this.resize(node, offset + data.length);
    node.data.set(data, offset);
    this.touch(node);
    return data.length;
  }

  async flush(_who: Requester, node: number, _handle: number, owner: bigint): Promise<void> {
    this.unlock(node, (lock) => !lock.isFlock && lock.owner === owner);
  }

  async release(
    inode: number,
    _handle: number,
    _flags: number,
    flockOwner: bigint | undefined,
  ): Promise<void> {
    if (flockOwner !== undefined) {
      this.unlock(inode, (lock) => lock.isFlock && lock.owner === flockOwner);
    }
    const node = this.node(inode);
    node.open--;
    if (node.links <= 0 && node.open === 0) this.nodes.delete(inode);
  }

  async fsync(): Promise<void> {
    await this.before?.("fsync");
  }

  async readdir(
    _who: Requester,
    inode: number,
    _handle: number,
    offset: number,
    _sizeHint: number,
    plus: boolean,
  ): Promise<DirectoryEntry[]> {
    const node = this.node(inode);
    const all: [string, number][] = [[".", inode], ["..", node.parent], ...node.children];
    return all.slice(offset).map(([name, child], i) => {
      const found = this.node(child);
      const isDot = offset + i < 2;
      return {
        name,
        inode: child,
        mode: found.mode,
        next: offset + i + 1,
        ...(plus && !isDot && { entry: this.entry(found) }),
      };
    });
  }

  async statfs(): Promise<Totals> {
    return { blocks: 1000, freeBlocks: 700, files: 100, freeFiles: 50, blockBytes: 4096 };
  }

  async setxattr(
    _who: Requester,
    node: number,
    name: string,
    value: Uint8Array,
    flags: number,
  ): Promise<void> {
    const { xattrs } = this.node(node);
    if (flags === 1 && xattrs.has(name)) throw new FileSystemError("EEXIST", name);
    if (flags === 2 && !xattrs.has(name)) throw new FileSystemError("ENODATA", name);
    xattrs.set(name, value.slice());
  }

  async getxattr(_who: Requester, node: number, name: string): Promise<Uint8Array> {
    const value = this.node(node).xattrs.get(name);
    if (!value) throw new FileSystemError("ENODATA", name);
    return value;
  }

  async listxattr(_who: Requester, node: number): Promise<string[]> {
    return [...this.node(node).xattrs.keys()];
  }

  async removexattr(_who: Requester, node: number, name: string): Promise<void> {
    if (!this.node(node).xattrs.delete(name)) throw new FileSystemError("ENODATA", name);
  }

  async fallocate(
    _who: Requester,
    inode: number,
    _handle: number,
    offset: number,
    length: number,
    mode: number,
  ): Promise<void> {
    const node = this.node(inode);
    const [keepSize, punchHole] = [(mode & 1) !== 0, (mode & 2) !== 0];
    if (punchHole) node.data.fill(0, offset, Math.min(node.data.length, offset + length));
    else if (!keepSize && offset + length > node.data.length) this.resize(node, offset + length);
  }

  private unlock(node: number, drops: (lock: FileLock) => boolean): void {
    const held = this.locks.get(node);
    if (held)
      this.locks.set(
        node,
        held.filter((lock) => !drops(lock)),
      );
  }

  private conflict(node: number, lock: FileLock): FileLock | undefined {
    return this.locks
      .get(node)
      ?.find(
        (other) =>
          other.isFlock === lock.isFlock &&
          other.owner !== lock.owner &&
          (other.kind === "write" || lock.kind === "write") &&
          other.start <= lock.end &&
          lock.start <= other.end,
      );
  }

  async getlk(_who: Requester, node: number, _handle: number, lock: FileLock): Promise<FileLock> {
    return this.conflict(node, lock) ?? { ...lock, kind: "none" };
  }

  async setlk(
    _who: Requester,
    node: number,
    _handle: number,
    lock: FileLock,
    wait: boolean,
    signal: AbortSignal,
  ): Promise<void> {
    while (lock.kind !== "none" && this.conflict(node, lock)) {
      if (!wait) throw new FileSystemError("EAGAIN", "lock");
      await new Promise((resolve) => setTimeout(resolve, 5));
      signal.throwIfAborted();
    }
    this.unlock(node, ({ isFlock, owner }) => isFlock === lock.isFlock && owner === lock.owner);
    if (lock.kind !== "none") this.locks.set(node, [...(this.locks.get(node) ?? []), lock]);
  }
}
