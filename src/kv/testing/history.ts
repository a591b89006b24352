/** @file Random concurrent transactions by seed, and the search for a serial order that explains them. */
import assert from "node:assert/strict";
import { isLinearizable, type ObservedOperation, Random } from "../../base/index.ts";
import { isKvError, type KvStore, type Transaction, transact } from "../index.ts";

/** The six keys of a history; a state lists their values, "" where absent. */
const numKeys = 6;
type State = readonly string[];

const keyOf = (index: number): Uint8Array => new TextEncoder().encode(`h${index}`);
const encode = (text: string): Uint8Array => new TextEncoder().encode(text);
const decode = (value: Uint8Array | undefined): string => new TextDecoder().decode(value);

/** One thing that a transaction saw or did; `index` up to `end` where it is a range. */
interface Action {
  readonly kind: "read" | "range" | "write" | "clear" | "clearRange";
  readonly index: number;
  readonly end: number;
  readonly value: string;
}

/** Performs a random action; what it saw or did. */
async function act(transaction: Transaction, random: Random, value: string): Promise<Action> {
  const index = random.below(numKeys);
  const end = index + 1 + random.below(numKeys - index);
  const kind = (["read", "read", "range", "write", "write", "clear", "clearRange"] as const)[
    random.below(7)
  ];
  let seen = "";
  if (kind === "read") seen = decode(await transaction.get(keyOf(index)));
  else if (kind === "range") {
    const found = await transaction.getRange(keyOf(index), keyOf(end));
    seen = found.map((entry) => `${decode(entry.key)}=${decode(entry.value)}`).join(",");
  } else if (kind === "write") transaction.set(keyOf(index), encode(value));
  else if (kind === "clear") transaction.clear(keyOf(index));
  else transaction.clearRange(keyOf(index), keyOf(end));
  return { kind, index, end, value: kind === "write" ? value : seen };
}

/** The state after the actions, or undefined where they can't have seen what they saw. */
function replay(state: State, actions: readonly Action[]): State | undefined {
  const next = [...state];
  for (const { kind, index, end, value } of actions) {
    if (kind === "write") next[index] = value;
    else if (kind === "clear") next[index] = "";
    else if (kind === "clearRange") next.fill("", index, end);
    else if (kind === "read" && next[index] !== value) return undefined;
    else if (kind === "range") {
      const entries = next.slice(index, end).map((held, i) => held && `h${index + i}=${held}`);
      if (entries.filter(Boolean).join(",") !== value) return undefined;
    }
  }
  return next;
}

async function client(
  store: KvStore,
  random: Random,
  name: string,
  tick: () => number,
): Promise<ObservedOperation<State>[]> {
  const history: ObservedOperation<State>[] = [];
  for (let i = 0; i < 8; i++) {
    const transaction = store.begin();
    const actions: Action[] = [];
    const startedAt = tick();
    let endedAt = Infinity;
    try {
      for (let j = 0; j < 4; j++) {
        actions.push(await act(transaction, random, `${name}${i}.${j}`));
        if (random.below(3) === 0) await new Promise((resolve) => setImmediate(resolve));
      }
      await transaction.commit();
      endedAt = tick();
    } catch (error) {
      if (!isKvError(error)) throw error;
      if (error.code !== "kv-maybe-committed") continue;
    } finally {
      transaction.cancel();
    }
    history.push({ startedAt, endedAt, step: (state) => replay(state, actions) });
  }
  return history;
}

/** Throws unless random histories of three clients, `count` by seed, are strictly serialisable. */
export async function checkHistories(store: KvStore, count = 12): Promise<void> {
  const first = Date.now() % 1e6;
  let committed = 0;
  for (let seed = first; seed < first + count; seed++) {
    await transact(store, async (transaction) => transaction.clearRange(keyOf(0), keyOf(9)));
    let time = 0;
    const tick = () => ++time;
    const clients = ["x", "y", "w"].map((name, i) =>
      client(store, new Random(seed * 3 + i), name, tick),
    );
    const history = (await Promise.all(clients)).flat();
    committed += history.length;
    const explained = isLinearizable<State>(new Array(numKeys).fill(""), history, String);
    assert.ok(explained, `no serial order explains the history of seed ${seed}`);
  }
  assert.ok(committed > count, `only ${committed} transactions committed`);
}
