/** @file Users and their tokens. A token is shown once, when it is made; only its hash is kept. */
import { createHash, randomBytes } from "node:crypto";
import type { Clock } from "../../base/index.ts";
import { type KvStore, type Transaction, transact } from "../../kv/index.ts";
import { fsError } from "../errors.ts";
import { checkWhole, refuse } from "./checks.ts";
import { records } from "./records.ts";
import type { Caller, User } from "./types.ts";

/** For how long an answer is believed, so that a revoked token works that much longer. */
const cacheMs = 15_000;

/** The users of a file system. */
export class Users {
  private readonly store: KvStore;
  private readonly clock: Clock;
  private readonly cache = new Map<string, { user: User; untilMs: number }>();

  constructor(store: KvStore, clock: Clock) {
    this.store = store;
    this.clock = clock;
  }

  /** The user whose token it is; throws `fs-unauthenticated`. */
  async authenticate(token: string | undefined): Promise<User> {
    if (typeof token !== "string" || token === "") throw unauthenticated();
    const hash = hashOf(token);
    const cached = this.cache.get(hash);
    if (cached && cached.untilMs > this.clock.now()) return cached.user;
    const user = await this.run(async (transaction) => {
      const uid = await records.tokens.peek(transaction, hash);
      return uid === undefined ? undefined : records.users.peek(transaction, uid);
    });
    if (!user) throw unauthenticated();
    // Bounded: a flood of valid tokens is no larger than the table of users.
    this.cache.set(hash, { user, untilMs: this.clock.now() + cacheMs });
    return user;
  }

  /** Throws unless the caller's token is the user's that it says it is, or an administrator's. */
  async requireProof(caller: Caller): Promise<User> {
    const user = await this.authenticate(caller.token);
    if (user.isAdmin) return user;
    const groups = new Set([user.gid, ...user.groups]);
    const isOwn =
      user.uid === caller.uid &&
      [caller.gid, ...(caller.groups ?? [])].every((gid) => groups.has(gid));
    if (isOwn) return user;
    const message = `The token is user ${user.uid}'s and does not stand for user ${caller.uid}`;
    throw fsError("fs-unauthenticated", `${message} with these groups: use the right one.`);
  }

  /** Adds or replaces a user. */
  async put(user: User): Promise<void> {
    checkWhole("uid", user.uid, 0, 2 ** 32 - 2);
    checkWhole("gid", user.gid, 0, 2 ** 32 - 2);
    if (typeof user.name !== "string" || user.name === "") {
      throw refuse("name", "is empty", "name the user");
    }
    await this.run(async (transaction) => records.users.set(transaction, user, user.uid));
    this.cache.clear();
  }

  /** Makes a token for a user and returns it; all earlier ones of that user end with `replaces`. */
  async makeToken(uid: number, replaces: boolean): Promise<string> {
    const token = randomBytes(32).toString("base64url");
    await this.run(async (transaction) => {
      if (!(await records.users.get(transaction, uid))) throw noUser(uid);
      if (replaces) await this.dropTokens(transaction, uid);
      records.tokens.set(transaction, uid, hashOf(token));
    });
    this.cache.clear();
    return token;
  }

  /** Removes a user with its tokens. */
  async remove(uid: number): Promise<void> {
    await this.run(async (transaction) => {
      if (!(await records.users.get(transaction, uid))) throw noUser(uid);
      await this.dropTokens(transaction, uid);
      records.users.clear(transaction, uid);
    });
    this.cache.clear();
  }

  /** All users, by uid. */
  list(): Promise<User[]> {
    return this.run((transaction) => records.users.list(transaction));
  }

  private async dropTokens(transaction: Transaction, uid: number): Promise<void> {
    for (const { key, record } of await records.tokens.entries(transaction)) {
      if (record === uid) transaction.clear(key);
    }
  }

  private run<T>(work: (transaction: Transaction) => Promise<T>): Promise<T> {
    return transact(this.store, work, { clock: this.clock, whenUnknown: "repeat" });
  }
}

function hashOf(token: string): string {
  return createHash("sha256").update(token).digest("hex");
}

function unauthenticated(): Error {
  return fsError("fs-unauthenticated", "The token is missing or unknown: ask for one.");
}

function noUser(uid: number): Error {
  return fsError("fs-input-invalid", `uid ${uid} is nobody's: add the user first.`);
}
