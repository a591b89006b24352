/** @file The engine without a disk: for tests, simulations, and state that may die with the process. */
import type { CommitRequest, TextEntry, TextRange } from "./backend.ts";
import {
  type GroupStorage,
  type OptimisticOptions,
  OptimisticStore,
  type StorageSnapshot,
} from "./optimistic.ts";
import { OrderedTree } from "./tree.ts";
import type { KvStore } from "./types.ts";

type Tree = OrderedTree<Uint8Array>;

class MemoryStorage implements GroupStorage {
  private tree: Tree = OrderedTree.empty();

  snapshot(): StorageSnapshot {
    return new MemorySnapshot(this.tree);
  }

  /** Only promises drive a simulation. */
  gather(): Promise<void> {
    return Promise.resolve();
  }

  async apply(group: readonly CommitRequest[]): Promise<void> {
    for (const { clears, writes } of group) {
      for (const { begin, end } of clears) this.tree = this.tree.without(begin, end);
      for (const [key, value] of writes) {
        this.tree = value ? this.tree.with(key, value) : this.tree.without(key, `${key}\0`);
      }
    }
  }

  async close(): Promise<void> {
    this.tree = OrderedTree.empty();
  }
}

class MemorySnapshot implements StorageSnapshot {
  private readonly tree: Tree;

  constructor(tree: Tree) {
    this.tree = tree;
  }

  get(key: string): Uint8Array | undefined {
    const value = this.tree.get(key);
    return value && Buffer.from(value);
  }

  range({ begin, end }: TextRange, limit: number, reverse: boolean): TextEntry[] {
    const found: TextEntry[] = [];
    this.tree.visit(begin, end, reverse, (key, value) => {
      found.push({ key, value: Buffer.from(value) });
      return found.length < limit;
    });
    return found;
  }

  release(): void {
    // The garbage collector frees what only this version held.
  }
}

/**
 * A store in memory. Deterministic: with a virtual `clock` it uses neither time, timers nor chance,
 * and the same calls in the same order give the same history.
 */
export function openMemoryKv(options?: OptimisticOptions): KvStore {
  return new OptimisticStore("memory", new MemoryStorage(), options);
}
