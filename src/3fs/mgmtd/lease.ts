/**
 * @file Who leads: a lease record in `kv`. Safety needs no clock: every write of a primary reads the
 * record in the same transaction, and a new term makes the old one's writes conflict. Clocks only
 * decide when to try: a contender waits until the record has not moved for the lease's length on the
 * contender's own monotonic clock, so that wall clocks may jump as they like.
 */
import type { Clock } from "../../base/index.ts";
import { isKvError, type KvStore, type Transaction, transact } from "../../kv/index.ts";
import { fsError } from "../errors.ts";
import { RecordFamily } from "../json-records.ts";
import type { Primary } from "./types.ts";

interface LeaseRecord extends Primary {
  /** Grows with every extension. */
  readonly beat: number;
}

const leases = new RecordFamily<LeaseRecord>("mgmtd-lease");

/** One instance's view of the lease. */
export class Lease {
  private readonly store: KvStore;
  private readonly clock: Clock;
  private readonly leaseMs: number;
  private readonly self: Omit<Primary, "term">;
  /** The record last seen, and when it was first seen so. */
  private seen: { record: LeaseRecord | undefined; sinceMs: number } | undefined;
  /** The term that this instance leads, and until when it may act on it. */
  private held: { term: number; untilMs: number } | undefined;
  /** The term that this instance last tried to take, whether or not it heard of its success. */
  private claimed = 0;

  constructor(store: KvStore, clock: Clock, leaseMs: number, self: Omit<Primary, "term">) {
    this.store = store;
    this.clock = clock;
    this.leaseMs = leaseMs;
    this.self = self;
  }

  /** The term that this instance leads now, undefined where it does not. */
  get term(): number | undefined {
    return this.held && this.clock.now() < this.held.untilMs ? this.held.term : undefined;
  }

  /** The primary that the record names; a silent one is named until another takes over. */
  async primary(): Promise<Primary> {
    const { store, clock } = this;
    const record = await transact(store, (transaction) => leases.peek(transaction), { clock });
    if (!record) throw fsError("fs-unavailable", "No mgmtd leads yet: try again in a moment.");
    const { nodeId, address, term } = record;
    return { nodeId, address, term };
  }

  /** Extends the lease, or takes it over where it is free; whether this instance leads. */
  async renew(): Promise<boolean> {
    const startMs = this.clock.now();
    try {
      const record = await transact(this.store, (transaction) => this.advance(transaction), {
        attempts: 3,
        clock: this.clock,
        // A beat that may have been written is found, or tried again, by the next renewal.
        whenUnknown: "repeat",
      });
      // Counted from before the write: others count from when they see it, which is later.
      this.held = record && { term: record.term, untilMs: startMs + this.leaseMs };
    } catch (error) {
      // The store can't be reached: what is held stays held until it runs out.
      if (!isKvError(error)) throw error;
    }
    return this.term !== undefined;
  }

  /** Gives the lease up, so that another instance need not wait. */
  async resign(): Promise<void> {
    const { held } = this;
    this.held = undefined;
    this.claimed = 0;
    if (!held) return;
    const release = async (transaction: Transaction): Promise<void> => {
      const record = await leases.get(transaction);
      if (record?.term === held.term) leases.set(transaction, { ...record, beat: -1 });
    };
    await transact(this.store, release, { clock: this.clock, whenUnknown: "repeat" });
  }

  /** Makes the commit of `transaction` fail unless `term` still leads. */
  async fence(transaction: Transaction, term: number): Promise<void> {
    const record = await leases.get(transaction);
    if (record?.term !== term || record.nodeId !== this.self.nodeId) {
      this.held = undefined;
      throw notPrimary(record);
    }
  }

  private async advance(transaction: Transaction): Promise<LeaseRecord | undefined> {
    const record = await leases.get(transaction);
    const isOurs = record && record.nodeId === this.self.nodeId && record.term === this.claimed;
    if (isOurs && record.beat >= 0) {
      const next = { ...record, ...this.self, beat: record.beat + 1 };
      leases.set(transaction, next);
      return next;
    }
    const now = this.clock.now();
    const before = this.seen?.record;
    if (!this.seen || before?.term !== record?.term || before?.beat !== record?.beat) {
      this.seen = { record, sinceMs: now };
    }
    // A quarter more, for clocks that do not run alike.
    const isFree = !record || record.beat < 0 || now - this.seen.sinceMs >= this.leaseMs * 1.25;
    if (!isFree) return undefined;
    this.claimed = (record?.term ?? 0) + 1;
    const next = { ...this.self, term: this.claimed, beat: 0 };
    leases.set(transaction, next);
    return next;
  }
}

/** The refusal of an instance that does not lead. */
export function notPrimary(record: Primary | undefined): Error {
  const who = record ? `mgmtd ${record.nodeId} at ${record.address} does` : "none is known";
  return fsError("mgmtd-not-primary", `This mgmtd does not lead, ${who}: ask that one.`);
}
