/**
 * @file Who may commit: remembers what recent commits wrote, and compares it with what a transaction
 * read. Commits are decided one by one, in groups that share a version; a transaction that read
 * version v must not have read anything that was written in a group above v.
 */
import type { CommitRequest, TextRange } from "./backend.ts";
import { lowerBound } from "./tree.ts";

interface Group {
  readonly version: number;
  /** Every key written, sorted once the group is closed. */
  keys: string[];
  /** Every range cleared. */
  readonly clears: TextRange[];
}

/** The recent writes of one store. */
export class Resolver {
  private readonly lastWrite = new Map<string, number>();
  private closed: Group[] = [];
  private open: Group = { version: 1, keys: [], clears: [] };
  /** The newest version of which nothing is remembered any more. */
  private forgotten = 0;

  /** The version that the open group will have. */
  get openVersion(): number {
    return this.open.version;
  }

  /** Whether nothing that the transaction read was written since. */
  admits({ version, readKeys, readRanges }: CommitRequest): boolean {
    if (version < this.forgotten) return false;
    const later = this.laterThan(version);
    const clears = later.flatMap((group) => group.clears);
    for (const key of readKeys) {
      if ((this.lastWrite.get(key) ?? 0) > version) return false;
      if (clears.some(({ begin, end }) => key >= begin && key < end)) return false;
    }
    return !readRanges.some(
      (range) =>
        later.some((group) => this.wroteWithin(group, range)) ||
        clears.some(({ begin, end }) => begin < range.end && range.begin < end),
    );
  }

  /** Counts the writes of a transaction that commits into the open group. */
  add({ clears, writes }: CommitRequest): void {
    for (const key of writes.keys()) {
      this.open.keys.push(key);
      this.lastWrite.set(key, this.open.version);
    }
    this.open.clears.push(...clears);
  }

  /** Closes the open group, and forgets those that no transaction reading `oldest` or later needs. */
  closeGroup(oldest: number): void {
    this.open.keys.sort((x, y) => (x < y ? -1 : x > y ? 1 : 0));
    this.closed.push(this.open);
    this.open = { version: this.open.version + 1, keys: [], clears: [] };
    const keep = this.closed.findIndex(({ version }) => version > oldest);
    const dropped = this.closed.splice(0, keep < 0 ? this.closed.length : keep);
    for (const { version, keys } of dropped) {
      this.forgotten = version;
      for (const key of keys) if (this.lastWrite.get(key) === version) this.lastWrite.delete(key);
    }
  }

  private laterThan(version: number): Group[] {
    const first = this.closed.findIndex((group) => group.version > version);
    return first < 0 ? [this.open] : [...this.closed.slice(first), this.open];
  }

  private wroteWithin(group: Group, { begin, end }: TextRange): boolean {
    if (group === this.open) return group.keys.some((key) => key >= begin && key < end);
    const index = lowerBound(group.keys, begin);
    return index < group.keys.length && group.keys[index] < end;
  }
}
