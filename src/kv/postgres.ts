/**
 * @file The engine of a cluster: any server that speaks PostgreSQL's protocol and has SERIALIZABLE
 * (package `pg`). A pinned version is a connection inside a transaction; the server notes what is read
 * and refuses what would not be serialisable. Writes are sent at commit. Snapshot reads are ordinary
 * reads: more conflicts than asked for, never fewer. A commit whose answer is lost is looked up by
 * its transaction id (`pg_xact_status`), so that `kv-maybe-committed` remains for lost servers only.
 */
import pg from "pg";
import { BaleenError, realClock } from "../base/index.ts";
import type { CommitRequest, OptimisticBackend, TextEntry, TextRange } from "./backend.ts";
import { type KvErrorCode, kvError } from "./errors.ts";
import { bytesOf, textOf } from "./keys.ts";
import { OptimisticTransaction } from "./transaction.ts";
import type { KvStore, Transaction } from "./types.ts";

/** How to reach a PostgreSQL store. */
export interface PostgresOptions {
  /** Such as `postgresql://user@127.0.0.1:5432/database`. */
  readonly url: string;
  /** The table that holds the entries, made where it is missing; default `baleen_kv`. */
  readonly table?: string;
  /** Connections, and so transactions at the same time; default 32. */
  readonly maxConnections?: number;
  /** Transactions that may wait for a connection before others get `kv-throttled`; default 10,000. */
  readonly maxWaiting?: number;
  /** How long a transaction may last, in milliseconds; default 5,000. */
  readonly maxAgeMs?: number;
}

interface Session {
  readonly client: pg.PoolClient;
  /** Ends when the last query has: a connection takes one at a time. */
  idle: Promise<unknown>;
  readonly startedMs: number;
  readonly onError: () => void;
}

/** Which of our codes a server's SQLSTATE stands for. */
const codesByState: Readonly<Record<string, KvErrorCode>> = {
  "40001": "kv-conflict",
  "40P01": "kv-conflict",
  "25P03": "kv-too-old",
  "53100": "kv-no-space",
  "53300": "kv-throttled",
};

/** A store in one table of a PostgreSQL database. */
class PostgresStore implements KvStore, OptimisticBackend {
  readonly engine = "postgres";
  private readonly pool: pg.Pool;
  private readonly table: string;
  private readonly maxWaiting: number;
  private readonly maxAgeMs: number;
  private readonly sessions = new Map<number, Session>();
  private readonly knowsStatus: boolean;
  private nextSession = 1;
  private isClosed = false;

  constructor(pool: pg.Pool, table: string, knowsStatus: boolean, options: PostgresOptions) {
    this.pool = pool;
    this.table = table;
    this.knowsStatus = knowsStatus;
    this.maxWaiting = options.maxWaiting ?? 10_000;
    this.maxAgeMs = options.maxAgeMs ?? 5000;
  }

  begin(): Transaction {
    return new OptimisticTransaction(this);
  }

  async close(): Promise<void> {
    if (this.isClosed) return;
    this.isClosed = true;
    for (const id of [...this.sessions.keys()]) this.end(id, true);
    await this.pool.end();
  }

  async pin(): Promise<number> {
    if (this.isClosed) throw kvError("kv-closed", "The store is closed: open it again.");
    const { waitingCount } = this.pool;
    if (waitingCount >= this.maxWaiting) {
      const message = `${waitingCount} transactions wait for a connection: try again later.`;
      throw kvError("kv-throttled", message);
    }
    const client = await this.pool.connect().catch((error: unknown) => {
      throw translate(error);
    });
    const id = this.nextSession++;
    // The server ends connections whose transaction is forgotten, and the pool needs another then.
    const onError = () => this.end(id, true);
    client.on("error", onError);
    const startedMs = realClock.now();
    this.sessions.set(id, { client, idle: Promise.resolve(), startedMs, onError });
    try {
      await client.query("BEGIN ISOLATION LEVEL SERIALIZABLE");
    } catch (error) {
      this.end(id, true);
      throw translate(error);
    }
    return id;
  }

  release(id: number): void {
    const session = this.sessions.get(id);
    if (!session) return;
    // Forgotten at once, so that a second release does nothing.
    this.sessions.delete(id);
    inTurn(session, () => session.client.query("ROLLBACK")).then(
      () => release(session, false),
      () => release(session, true),
    );
  }

  async get(id: number, key: string): Promise<Uint8Array | undefined> {
    const rows = await this.query(id, "get", `SELECT value FROM ${this.table} WHERE key = $1`, [
      bytesOf(key),
    ]);
    return rows[0]?.value;
  }

  async range(
    id: number,
    { begin, end }: TextRange,
    limit: number,
    reverse: boolean,
  ): Promise<readonly TextEntry[]> {
    const text =
      `SELECT key, value FROM ${this.table} WHERE key >= $1 AND key < $2 ` +
      `ORDER BY key ${reverse ? "DESC" : "ASC"} LIMIT $3`;
    const name = reverse ? "range-reverse" : "range";
    const rows = await this.query(id, name, text, [bytesOf(begin), bytesOf(end), limit]);
    return rows.map(({ key, value }) => ({ key: textOf(key), value }));
  }

  async commit(request: CommitRequest): Promise<void> {
    const id = request.version;
    const { unreadKeys, unreadRanges } = request;
    if (unreadKeys.length > 0) {
      const text = `SELECT count(*) FROM ${this.table} WHERE key = ANY($1::bytea[])`;
      await this.query(id, "note-keys", text, [unreadKeys.map(bytesOf)]);
    }
    for (const { begin, end } of unreadRanges) {
      const text = `SELECT count(*) FROM ${this.table} WHERE key >= $1 AND key < $2`;
      await this.query(id, "note-range", text, [bytesOf(begin), bytesOf(end)]);
    }
    const transactionId = await this.write(id, request);
    const session = this.session(id);
    try {
      await inTurn(session, () => session.client.query("COMMIT"));
    } catch (error) {
      this.end(id, true);
      const failure = translate(error);
      if (failure.code !== "kv-unavailable" || transactionId === undefined) throw failure;
      return this.lookUp(transactionId, failure);
    }
    this.end(id, false);
  }

  /** Sends the writes; the server's id of the transaction, where anything is written. */
  private async write(id: number, request: CommitRequest): Promise<string | undefined> {
    const xid = this.knowsStatus ? "pg_current_xact_id()::text" : "''";
    const deleting = (condition: string): string =>
      `WITH gone AS (DELETE FROM ${this.table} WHERE ${condition} RETURNING 1) ` +
      `SELECT ${xid} AS xid, count(*) FROM gone`;
    let transactionId: string | undefined;
    for (const { begin, end } of request.clears) {
      const bounds = [bytesOf(begin), bytesOf(end)];
      const rows = await this.query(id, "clear", deleting("key >= $1 AND key < $2"), bounds);
      transactionId = rows[0].xid;
    }
    const sets: [Buffer, Buffer][] = [];
    const removed: Buffer[] = [];
    for (const [key, value] of request.writes) {
      if (value) sets.push([bytesOf(key), Buffer.from(value)]);
      else removed.push(bytesOf(key));
    }
    if (removed.length > 0) {
      const rows = await this.query(id, "remove", deleting("key = ANY($1::bytea[])"), [removed]);
      transactionId = rows[0].xid;
    }
    if (sets.length > 0) {
      const text =
        `WITH put AS (INSERT INTO ${this.table} (key, value) ` +
        "SELECT * FROM unnest($1::bytea[], $2::bytea[]) " +
        "ON CONFLICT (key) DO UPDATE SET value = excluded.value RETURNING 1) " +
        `SELECT ${xid} AS xid, count(*) FROM put`;
      const columns = [sets.map(([key]) => key), sets.map(([, value]) => value)];
      transactionId = (await this.query(id, "set", text, columns))[0].xid;
    }
    return transactionId;
  }

  /** Returns if a transaction whose answer was lost has committed; else throws what became of it. */
  private async lookUp(transactionId: string, failure: BaleenError): Promise<void> {
    const words = "The connection broke at the commit";
    const unknown = `${words}, and its outcome is unknown: look whether its writes are there.`;
    for (let attempt = 0; this.knowsStatus && attempt < 10; attempt++) {
      await new Promise((resolve) => setTimeout(resolve, attempt * 20));
      const status = await this.pool
        .query("SELECT pg_xact_status($1::xid8) AS status", [transactionId])
        .then(({ rows }) => rows[0].status as string)
        .catch(() => "in progress");
      if (status === "committed") return;
      if (status === "aborted") throw kvError("kv-unavailable", `${words}: try again.`, failure);
    }
    throw kvError("kv-maybe-committed", unknown, failure);
  }

  private async query(
    id: number,
    name: string,
    text: string,
    values: unknown[],
  ): Promise<Record<string, never>[]> {
    const session = this.session(id);
    const config = { name: `${this.table}:${name}`, text, values };
    try {
      return (await inTurn(session, () => session.client.query(config))).rows;
    } catch (error) {
      throw translate(error);
    }
  }

  private session(id: number): Session {
    const session = this.sessions.get(id);
    if (this.isClosed) throw kvError("kv-closed", "The store is closed: open it again.");
    const old = session && realClock.now() - session.startedMs > this.maxAgeMs;
    if (!session || old) {
      const message = `The transaction's connection broke or is older than ${this.maxAgeMs} ms`;
      throw kvError("kv-too-old", `${message}: begin another.`);
    }
    return session;
  }

  private end(id: number, isBroken: boolean): void {
    const session = this.sessions.get(id);
    this.sessions.delete(id);
    if (session) release(session, isBroken);
  }
}

/** Sends a query once those before it have ended. */
function inTurn<T>(session: Session, send: () => Promise<T>): Promise<T> {
  const turn = session.idle.then(send);
  session.idle = turn.catch(() => undefined);
  return turn;
}

function release({ client, onError }: Session, isBroken: boolean): void {
  client.release(isBroken);
  // A connection that is being destroyed may still fail, and nobody else listens.
  if (!isBroken) client.off("error", onError);
}

/** Our failure for the server's or the connection's. */
function translate(error: unknown): BaleenError {
  if (error instanceof BaleenError) return error;
  const state = error instanceof pg.DatabaseError ? (error.code ?? "") : "";
  const detail = error instanceof Error ? error.message : String(error);
  const code = codesByState[state];
  if (code)
    return kvError(code, `PostgreSQL refused (${detail}): run the transaction again.`, error);
  const isServers = error instanceof pg.DatabaseError && !/^(08|57P)/.test(state);
  // What is left of the server's own words is a fault of ours or of the table: no retry helps.
  if (isServers) throw error;
  return kvError("kv-unavailable", `PostgreSQL can't be reached (${detail}): check it.`, error);
}

/**
 * Opens a store on a PostgreSQL server (10 or later; CockroachDB and YugabyteDB speak the same, which
 * is untested). Throws `kv-unavailable` where the server can't be reached.
 */
export async function openPostgresKv(options: PostgresOptions): Promise<KvStore> {
  const { url, table = "baleen_kv", maxConnections = 32, maxAgeMs = 5000 } = options;
  if (!/^[a-z_][a-z0-9_]{0,40}$/.test(table)) {
    const message = `table is ${JSON.stringify(table)}: give lower-case letters, digits and _.`;
    throw kvError("kv-input-invalid", message);
  }
  const pool = new pg.Pool({
    connectionString: url,
    max: maxConnections,
    idle_in_transaction_session_timeout: maxAgeMs,
  });
  pool.on("error", () => undefined); // An idle connection broke; the pool makes another.
  try {
    await pool.query(
      `CREATE TABLE IF NOT EXISTS ${table} (key bytea PRIMARY KEY, value bytea NOT NULL)`,
    );
    const knowsStatus = await pool.query("SELECT pg_current_xact_id_if_assigned()").then(
      () => true,
      () => false,
    );
    return new PostgresStore(pool, table, knowsStatus, options);
  } catch (error) {
    await pool.end();
    throw translate(error);
  }
}
