/**
 * @file The metadata service: files, directories, names, attributes, over `kv`. It keeps nothing that
 * matters between two requests, so that any number of instances run side by side.
 */
import { randomUUID } from "node:crypto";
import { BaleenError, type Clock, Random, realClock } from "../../base/index.ts";
import { isKvError, type KvStore, type Transaction, transact } from "../../kv/index.ts";
import { fsError } from "../errors.ts";
import { lastText } from "../json-records.ts";
import type { Routing } from "../routing.ts";
import type { InodeId } from "../types.ts";
import {
  type AttributeMode,
  answerAccess,
  changeAttribute,
  changeAttributes,
  readAttribute,
} from "./attributes.ts";
import { checkDefaults, checkWhole, refuse } from "./checks.ts";
import { type Collected, collect, emptyTrash, type Runner } from "./collector.ts";
import { createAt, linkAt, makeDirectory } from "./create.ts";
import {
  addSession,
  askEnd,
  cutTo,
  dropLock,
  endSession,
  growTo,
  isCurrent,
  takeLock,
  widenTo,
} from "./files.ts";
import { inodeAt, notFound, placeOf } from "./paths.ts";
import { access, isRoot, requireAccess } from "./permissions.ts";
import { directoryOf, inodeOf, records, rootId, shownInode, trashId } from "./records.ts";
import { removeAt } from "./remove.ts";
import { renameAt } from "./rename.ts";
import { forgetClient, Requests } from "./requests.ts";
import type { MetaService, PageOptions } from "./service.ts";
import type {
  At,
  AttributeChanges,
  Caller,
  DirectoryPage,
  FileKind,
  FileStorage,
  FileTime,
  Inode,
  LayoutDefaults,
  OpenOptions,
  Quota,
  QuotaReport,
  RemoveOptions,
  RenameOptions,
  User,
} from "./types.ts";
import { Users } from "./users.ts";
import { charge, putInode, usageOf, type Work } from "./work.ts";

/** How an instance runs. */
export interface MetaOptions {
  readonly store: KvStore;
  readonly storage: FileStorage;
  /** The newest routing known. */
  readonly routing: () => Routing;
  /** Ask every caller for a token; default false. */
  readonly requireTokens?: boolean;
  /** Default: the process's clock. */
  readonly clock?: Clock;
  /** Wall clock in milliseconds, fractions count; default `Date.now` with the process's fraction. */
  readonly wallMs?: () => number;
  /** Default: by chance. A simulation gives a seeded one. */
  readonly random?: Random;
  /** Unique for ever; default a UUID. */
  readonly instanceId?: string;
}

const maxBatch = 10_000;
const idsAtOnce = 1000;
const system: Caller = { uid: 0, gid: 0 };

/** One instance of the metadata service. */
export class Meta implements MetaService {
  private readonly store: KvStore;
  private readonly storage: FileStorage;
  private readonly options: Required<Omit<MetaOptions, "store" | "storage">>;
  private readonly requests: Requests;
  private readonly accounts: Users;
  private ids: { next: number; end: number } = { next: 0, end: 0 };
  private taking: Promise<void> | undefined;

  constructor({ store, storage, ...options }: MetaOptions) {
    this.store = store;
    this.storage = storage;
    this.options = {
      requireTokens: false,
      clock: realClock,
      wallMs: () => performance.timeOrigin + performance.now(),
      random: new Random(Date.now()),
      instanceId: randomUUID(),
      ...options,
    };
    const { clock, random, instanceId } = this.options;
    this.requests = new Requests(store, clock, random, instanceId);
    this.accounts = new Users(store, clock);
  }

  /** Makes the root and `/.trash`, if they are missing. New files get `defaults`. */
  async format(defaults: LayoutDefaults): Promise<void> {
    checkDefaults(defaults);
    await this.perform(system, async (work) => {
      if (await records.inodes.get(work.transaction, rootId)) return;
      const { now } = work;
      const times = { atime: now, mtime: now, ctime: now };
      const common = { kind: "directory", uid: 0, gid: 0, links: 1, length: 0 } as const;
      const root = { ...common, ...times, id: rootId, mode: 0o755, parent: rootId, name: "" };
      putInode(work, { ...root, defaults });
      putInode(work, { ...root, id: trashId, mode: 0o1777, name: ".trash", defaults });
      records.entries.set(work.transaction, { id: trashId, kind: "directory" }, rootId, ".trash");
    });
  }

  lookup(caller: Caller, at: At, options: { readonly noFollow?: boolean } = {}): Promise<Inode> {
    return this.read(caller, async ({ transaction }) => {
      const { id } = await inodeAt(transaction, caller, at, { follow: !options.noFollow });
      return (await shownInode(transaction, id))!;
    });
  }

  async batchStat(caller: Caller, ids: readonly InodeId[]): Promise<readonly (Inode | null)[]> {
    checkBatch("ids", ids);
    return this.read(caller, ({ transaction }) =>
      Promise.all(ids.map(async (id) => (await shownInode(transaction, id)) ?? null)),
    );
  }

  async batchLookup(caller: Caller, ats: readonly At[]): Promise<readonly (Inode | null)[]> {
    checkBatch("paths", ats);
    return this.read(caller, ({ transaction }) =>
      Promise.all(
        ats.map(async (at) => {
          try {
            const { id } = await inodeAt(transaction, caller, at);
            return (await shownInode(transaction, id)) ?? null;
          } catch (error) {
            const misses = ["fs-not-found", "fs-not-directory", "fs-stale-handle"];
            if (error instanceof BaleenError && misses.includes(error.code)) return null;
            throw error;
          }
        }),
      ),
    );
  }

  mayAccess(caller: Caller, id: InodeId, wanted: number): Promise<boolean> {
    return this.read(caller, async (work) =>
      answerAccess(work, await inodeOf(work.transaction, id), wanted),
    );
  }

  realPath(caller: Caller, id: InodeId): Promise<string> {
    return this.read(caller, async ({ transaction }) => {
      const names: string[] = [];
      for (let at = await directoryOf(transaction, id); at.id !== rootId; ) {
        names.unshift(at.name ?? "");
        at = await directoryOf(transaction, at.parent ?? rootId);
      }
      return `/${names.join("/")}`;
    });
  }

  async open(caller: Caller, at: At, options: OpenOptions): Promise<Inode> {
    const { truncate = false, write = false, isExclusive = false } = options;
    // What must be new has nothing to cut off.
    if (!truncate || isExclusive) return (await this.openOnce(caller, at, options, true)).inode;
    if (!write) throw refuse("truncate", "needs write", "open for writing");
    const [kept] = await this.requests.kept<Inode>(caller.request);
    if (kept) return kept;
    // The storage is trimmed before the length is set, see `files.ts`.
    const { request: _, ...anonymous } = caller;
    const { inode, isNew } = await this.openOnce(anonymous, at, options, false);
    const { id, layout, usedStripe = 1 } = inode;
    if (layout && !isNew) await this.storage.truncate(id, layout, usedStripe, 0);
    return this.perform(caller, async (work) => {
      const current = await inodeOf(work.transaction, id);
      if (current.kind !== "file") return current;
      addSession(work, current, options.sessionId);
      return isNew ? current : cutTo(work, current, 0);
    });
  }

  async close(caller: Caller, id: InodeId, sessionId: string): Promise<Inode> {
    const clientId = caller.request?.clientId ?? "";
    return this.settle(caller, id, async (work, inode) => {
      await endSession(work, inode, clientId, sessionId);
    });
  }

  sync(caller: Caller, id: InodeId): Promise<Inode> {
    return this.settle(caller, id, async () => undefined);
  }

  async hintLength(
    caller: Caller,
    id: InodeId,
    length: number,
    truncations: number,
  ): Promise<void> {
    checkWhole("length", length);
    return this.write(caller, async (work) => {
      const inode = await inodeOf(work.transaction, id);
      await this.requireWriter(work, inode);
      if (inode.truncations === truncations && length > inode.length) {
        await growTo(work, inode, length);
      }
    });
  }

  async extendStripe(caller: Caller, id: InodeId, index: number): Promise<Inode> {
    checkWhole("index", index);
    return this.write(caller, async (work) => {
      const inode = await inodeOf(work.transaction, id);
      await this.requireWriter(work, inode);
      return widenTo(work, inode, index);
    });
  }

  async truncate(caller: Caller, id: InodeId, length: number): Promise<Inode> {
    checkWhole("length", length);
    const [kept] = await this.requests.kept<Inode>(caller.request);
    if (kept) return kept;
    return this.untilFresh(async () => {
      const inode = await this.read(caller, async (work) => {
        const found = await inodeOf(work.transaction, id);
        await this.requireWriter(work, found);
        return found;
      });
      const { kind, layout, usedStripe = 1 } = inode;
      if (kind === "directory") {
        throw fsError("fs-is-directory", `Inode ${id} is a directory: name a file.`);
      }
      if (!layout) throw refuse("id", "is no regular file", "name one");
      await this.storage.truncate(id, layout, usedStripe, length);
      return this.perform(caller, async (work) => {
        const current = await inodeOf(work.transaction, id);
        // Chunks on chains that came into use meanwhile have not been trimmed.
        if (current.usedStripe !== usedStripe) throw new Stale();
        return cutTo(work, current, length);
      });
    });
  }

  async mkdir(
    caller: Caller,
    at: At,
    mode: number,
    { isRecursive = false }: { readonly isRecursive?: boolean } = {},
  ): Promise<Inode> {
    checkWhole("mode", mode, 0, 0o7777);
    const depth = isRecursive ? at.path.split("/").length : 1;
    const ids = await this.takeIds(depth);
    return this.write(caller, (work) => {
      let used = 0;
      return makeDirectory(work, at, mode, isRecursive, () => ids[used++]);
    });
  }

  async makeNode(
    caller: Caller,
    at: At,
    kind: FileKind,
    mode: number,
    device?: number,
  ): Promise<Inode> {
    checkWhole("mode", mode, 0, 0o7777);
    const isDevice = kind === "character" || kind === "block";
    if (kind === "directory" || kind === "symlink") {
      throw refuse("kind", `is ${kind}`, "use mkdir or symlink");
    }
    if (isDevice && !isRoot(caller)) {
      throw fsError("fs-not-permitted", "Only root makes devices: ask an administrator.");
    }
    return this.make(caller, at, { kind, mode, ...(isDevice ? { device: device ?? 0 } : {}) });
  }

  symlink(caller: Caller, at: At, target: string): Promise<Inode> {
    return this.make(caller, at, { kind: "symlink", mode: 0o777, target });
  }

  link(caller: Caller, id: InodeId, at: At): Promise<Inode> {
    return this.write(caller, async (work) => {
      const place = await placeOf(work.transaction, caller, at, { follow: false });
      return linkAt(work, await inodeOf(work.transaction, id), place);
    });
  }

  async remove(caller: Caller, at: At, options: RemoveOptions = {}): Promise<void> {
    if (options.trashMs !== undefined) checkWhole("trashMs", options.trashMs);
    return this.write(caller, async (work) => {
      const place = await placeOf(work.transaction, caller, at, { follow: false });
      await removeAt(work, place, at.path, options);
    });
  }

  rename(caller: Caller, from: At, to: At, options: RenameOptions = {}): Promise<void> {
    return this.write(caller, async (work) => {
      const source = await placeOf(work.transaction, caller, from, { follow: false });
      const target = await placeOf(work.transaction, caller, to, { follow: false });
      await renameAt(work, source, target, options);
    });
  }

  async readdir(caller: Caller, id: InodeId, options: PageOptions = {}): Promise<DirectoryPage> {
    const { after, limit = 1000, withInodes = false } = options;
    checkWhole("limit", limit, 1, maxBatch);
    return this.read(caller, async ({ transaction }) => {
      const directory = await inodeOf(transaction, id);
      if (directory.kind !== "directory") {
        throw fsError("fs-not-directory", `Inode ${id} is no directory: check the path.`);
      }
      requireAccess(caller, directory, access.read);
      const { entries: family } = records;
      const found = await family.after(transaction, limit + 1, after, id);
      const entries = found.slice(0, limit).map(async ({ key, record }) => {
        const name = lastText(key, family.name, id);
        const inode = withInodes ? await shownInode(transaction, record.id) : undefined;
        return { name, ...record, ...(inode ? { inode } : {}) };
      });
      return { entries: await Promise.all(entries), hasMore: found.length > limit };
    });
  }

  setAttributes(caller: Caller, id: InodeId, changes: AttributeChanges): Promise<Inode> {
    return this.write(caller, async (work) =>
      changeAttributes(work, await inodeOf(work.transaction, id), changes),
    );
  }

  setXattr(
    caller: Caller,
    id: InodeId,
    name: string,
    value: Uint8Array,
    mode: AttributeMode = "set",
  ): Promise<void> {
    return this.write(caller, async (work) =>
      changeAttribute(work, await inodeOf(work.transaction, id), name, value, mode),
    );
  }

  getXattr(caller: Caller, id: InodeId, name: string): Promise<Uint8Array> {
    return this.read(caller, (work) => readAttribute(work, id, name));
  }

  listXattr(caller: Caller, id: InodeId): Promise<readonly string[]> {
    return this.read(caller, async ({ transaction }) => {
      await inodeOf(transaction, id);
      const { attributes } = records;
      const found = await attributes.entries(transaction, maxBatch, id);
      return found.map(({ key }) => lastText(key, attributes.name, id));
    });
  }

  removeXattr(caller: Caller, id: InodeId, name: string): Promise<void> {
    return this.write(caller, async (work) =>
      changeAttribute(work, await inodeOf(work.transaction, id), name, undefined, "replace"),
    );
  }

  lock(caller: Caller, id: InodeId, owner: string, isExclusive: boolean): Promise<void> {
    const clientId = caller.request?.clientId ?? "";
    return this.write(caller, (work) => takeLock(work, id, { clientId, owner, isExclusive }));
  }

  unlock(caller: Caller, id: InodeId, owner: string): Promise<void> {
    const clientId = caller.request?.clientId ?? "";
    return this.write(caller, (work) => dropLock(work, id, clientId, owner));
  }

  async pruneClient(caller: Caller, clientId: string): Promise<void> {
    await this.requireAdmin(caller);
    const found = await this.read(system, ({ transaction }) =>
      records.clientSessions.entries(transaction, maxBatch, clientId),
    );
    for (const { key, record: id } of found) {
      const sessionId = lastText(key, records.clientSessions.name, clientId, id);
      const end = async (work: Work, inode: Inode) => endSession(work, inode, clientId, sessionId);
      await this.settle(system, id, end).catch(async (error: unknown) => {
        if (!(error instanceof BaleenError) || error.code !== "fs-stale-handle") throw error;
        await this.perform(system, async ({ transaction }) => transaction.clear(key));
      });
    }
    await this.perform(system, async (work) => {
      const locked = await records.clientLocks.page(work.transaction, maxBatch, clientId);
      for (const { record: id } of locked) await dropLock(work, id, clientId);
      forgetClient(work.transaction, clientId);
    });
  }

  async setQuota(caller: Caller, id: InodeId, quota: Quota): Promise<void> {
    await this.requireAdmin(caller);
    for (const field of ["files", "bytes"] as const) {
      if (quota[field] !== undefined) checkWhole(field, quota[field]);
    }
    return this.perform(caller, async (work) => {
      const directory = await directoryOf(work.transaction, id);
      records.quotas.set(work.transaction, quota, id);
      const quotas = directory.quotas ?? [];
      if (quotas.includes(id)) return;
      if (!(await records.entries.isEmpty(work.transaction, id))) {
        const message = `Directory ${id} holds something already, which would not be counted`;
        throw fsError("fs-not-empty", `${message}: set the quota on an empty directory.`);
      }
      putInode(work, { ...directory, quotas: [...quotas, id] });
      await charge(work, { id, quotas: [id] }, 1, 0);
    });
  }

  quota(caller: Caller, id: InodeId): Promise<QuotaReport | null> {
    return this.read(caller, async ({ transaction }) => {
      const limit = await records.quotas.peek(transaction, id);
      if (!limit) return null;
      const [files, bytes] = await usageOf(transaction, id);
      return { limit, files, bytes };
    });
  }

  authenticate(token: string): Promise<User> {
    return this.accounts.authenticate(token);
  }

  async putUser(caller: Caller, user: User): Promise<void> {
    await this.requireAdmin(caller);
    return this.accounts.put(user);
  }

  async makeToken(caller: Caller, uid: number, replaces = false): Promise<string> {
    await this.requireAdmin(caller);
    return this.accounts.makeToken(uid, replaces);
  }

  async removeUser(caller: Caller, uid: number): Promise<void> {
    await this.requireAdmin(caller);
    return this.accounts.remove(uid);
  }

  async users(caller: Caller): Promise<readonly User[]> {
    await this.requireAdmin(caller);
    return this.accounts.list();
  }

  /** One round of the background's work, see `collector.ts`. Call it again soon while `hasMore`. */
  async collect(limit = 100): Promise<Collected> {
    const run: Runner = {
      read: (work) => this.read(system, work),
      write: (work) => this.perform(system, work),
    };
    const expired = await emptyTrash(run, limit);
    const collected = await collect(run, this.storage, limit);
    return { ...collected, hasMore: collected.hasMore || expired === limit };
  }

  private async openOnce(
    caller: Caller,
    at: At,
    options: OpenOptions,
    addsSession: boolean,
  ): Promise<{ inode: Inode; isNew: boolean }> {
    const { createMode, isExclusive = false, noFollow = false } = options;
    if (createMode !== undefined) checkWhole("createMode", createMode, 0, 0o7777);
    const [id] = createMode === undefined ? [0] : await this.takeIds(1);
    return this.write(caller, async (work) => {
      const follow = !noFollow && !(createMode !== undefined && isExclusive);
      const place = await placeOf(work.transaction, caller, at, { follow });
      if (!place.entry) {
        if (createMode === undefined) throw notFound(at.path);
        const made = { id, kind: "file", mode: createMode } as const;
        const layout = options.layout ? { layout: options.layout } : {};
        const inode = await createAt(work, place, { ...made, ...layout });
        if (options.write && addsSession) addSession(work, inode, options.sessionId);
        return { inode, isNew: true };
      }
      if (createMode !== undefined && isExclusive) {
        throw fsError(
          "fs-exists",
          `${JSON.stringify(at.path)} exists: open it without isExclusive.`,
        );
      }
      const inode = await inodeOf(work.transaction, place.entry.id);
      checkOpenable(caller, inode, options, place.asksDirectory);
      const isWriter = options.write && inode.kind === "file" && addsSession;
      if (isWriter) addSession(work, inode, options.sessionId);
      return { inode, isNew: false };
    });
  }

  private async make(
    caller: Caller,
    at: At,
    made: { kind: FileKind; mode: number; target?: string; device?: number },
  ): Promise<Inode> {
    const [id] = await this.takeIds(1);
    return this.write(caller, async (work) => {
      const place = await placeOf(work.transaction, caller, at, { follow: false });
      return createAt(work, place, { ...made, id });
    });
  }

  /** Asks the storage for the end, until the answer is of the file as it is, and takes it over. */
  private async settle(
    caller: Caller,
    id: InodeId,
    after: (work: Work, inode: Inode) => Promise<void>,
  ): Promise<Inode> {
    const [kept] = await this.requests.kept<Inode>(caller.request);
    if (kept) return kept;
    return this.untilFresh(async () => {
      const inode = await this.read(caller, ({ transaction }) => inodeOf(transaction, id));
      const known = await askEnd(this.storage, inode);
      return this.perform(caller, async (work) => {
        const current = await inodeOf(work.transaction, id);
        if (current.layout && !isCurrent(known, current)) throw new Stale();
        const exact = known.end > current.length ? await growTo(work, current, known.end) : current;
        await after(work, exact);
        return exact;
      });
    });
  }

  /** The result of `run`, which says by `Stale` that the file changed between its steps. */
  private async untilFresh<T>(run: () => Promise<T>): Promise<T> {
    while (true) {
      try {
        return await run();
      } catch (error) {
        if (!(error instanceof Stale)) throw error;
      }
    }
  }

  /** Throws unless the caller may write, or has the file open for writing. */
  private async requireWriter(work: Work, inode: Inode): Promise<void> {
    const clientId = work.caller.request?.clientId;
    if (clientId !== undefined) {
      const isOpen = !(await records.sessions.isEmpty(work.transaction, inode.id, clientId));
      if (isOpen) return;
    }
    requireAccess(work.caller, inode, access.write);
  }

  private async requireAdmin(caller: Caller): Promise<void> {
    if (this.options.requireTokens) {
      const user = await this.accounts.requireProof(caller);
      if (user.isAdmin) return;
    } else if (isRoot(caller)) return;
    throw fsError("fs-not-permitted", "Only an administrator may do this: ask one.");
  }

  /** Ids that no inode has or will have. */
  private async takeIds(count: number): Promise<number[]> {
    const taken: number[] = [];
    while (taken.length < count) {
      if (this.ids.next === this.ids.end) {
        this.taking ??= this.fetchIds().finally(() => {
          this.taking = undefined;
        });
        await this.taking;
      } else taken.push(this.ids.next++);
    }
    return taken;
  }

  private async fetchIds(): Promise<void> {
    const { clock } = this.options;
    const fetch = async (transaction: Transaction): Promise<number> => {
      const next = (await records.nextInode.get(transaction)) ?? trashId + 1;
      records.nextInode.set(transaction, next + idsAtOnce);
      return next;
    };
    // An answer that is lost costs ids, of which there are enough.
    const next = await transact(this.store, fetch, { clock, whenUnknown: "repeat" });
    this.ids = { next, end: next + idsAtOnce };
  }

  private async read<T>(caller: Caller, run: (work: Work) => Promise<T>): Promise<T> {
    await this.requireProof(caller);
    const { clock, random } = this.options;
    const attempt = (transaction: Transaction) => run(this.work(caller, transaction));
    return translated(transact(this.store, attempt, { clock, random }));
  }

  private async write<T>(caller: Caller, run: (work: Work) => Promise<T>): Promise<T> {
    await this.requireProof(caller);
    return this.perform(caller, run);
  }

  /** Runs without asking for proof: for callers that were asked. */
  private perform<T>(caller: Caller, run: (work: Work) => Promise<T>): Promise<T> {
    const attempt = (transaction: Transaction) => run(this.work(caller, transaction));
    return translated(this.requests.once(caller.request, attempt));
  }

  private async requireProof(caller: Caller): Promise<void> {
    if (this.options.requireTokens && caller !== system) await this.accounts.requireProof(caller);
  }

  private work(caller: Caller, transaction: Transaction): Work {
    const ms = this.options.wallMs();
    const s = Math.floor(ms / 1000);
    const now: FileTime = { s, ns: Math.floor((ms - s * 1000) * 1e6) };
    return { transaction, caller, now, routing: this.options.routing() };
  }
}

/** Tells that a file changed between the steps of an operation. */
class Stale extends Error {}

/** What `promise` gives, with failures of the store as ours. */
async function translated<T>(promise: Promise<T>): Promise<T> {
  try {
    return await promise;
  } catch (error) {
    if (!isKvError(error)) throw error;
    const message = `The metadata store failed (${error.message}): send the request again.`;
    throw fsError("fs-unavailable", message, error);
  }
}

/** Throws unless what is there may be opened so. */
function checkOpenable(
  caller: Caller,
  inode: Inode,
  { read = false, write = false, noFollow = false }: OpenOptions,
  asksDirectory: boolean,
): void {
  if (inode.kind === "symlink" && noFollow) {
    throw fsError("fs-symlink-loop", "The path ends in a symbolic link: open what it names.");
  }
  if (inode.kind === "directory" && write) {
    throw fsError("fs-is-directory", `Inode ${inode.id} is a directory: open it for reading.`);
  }
  if (asksDirectory && inode.kind !== "directory") {
    throw fsError("fs-not-directory", `Inode ${inode.id} is no directory: leave out the slash.`);
  }
  const wanted = (read ? access.read : 0) | (write ? access.write : 0);
  if (wanted !== 0) requireAccess(caller, inode, wanted);
}

function checkBatch(field: string, items: readonly unknown[]): void {
  if (Array.isArray(items) && items.length <= maxBatch) return;
  throw refuse(field, `are no list of at most ${maxBatch}`, "send several batches");
}
